"""What a failure may say outside the node: a code, a sentence of ours, and of the plan's exceptions type and line.

Messages of exceptions may hold paths and values, so they stay in the owner's log. Free of torch.
"""

from __future__ import annotations

import traceback

from foedus.domain.errors import FoedusError
from foedus.node.frames import Failed

PLAN_FILE = "<plan>/"
"""How the names of a plan's files begin in tracebacks (see ``local.loader``)."""

DETAIL_LIMIT = 10_000

REFUSALS = (
    *("plan_not_registered", "plan_not_approved", "plan_revoked", "policy_refused"),
    *("approval_dataset", "approval_strategy", "approval_rounds", "approval_expired", "approval_resources"),
)
"""Codes of what the owner does not want."""

OURS = ("arguments_refused", "output_refused", *REFUSALS)
"""Codes of the agent's own refusals, whose words name a rule and nothing of the data."""

SENTENCES = {
    "align_refused": "The dataset cannot be read like the tables of other sites.",
    "audit_unwritable": "The node's security log cannot be written.",
    "client_state_missing": "The client's state is not on this node any more.",
    "column_missing": "The plan asks for a column that the dataset does not have.",
    "dataset_changed": "The dataset is not the one that this run began with.",
    "command_failed": "The plan's command ended with an error.",
    "command_missing": "The plan's command cannot be started on this node.",
    "command_timeout": "The plan's command took longer than it may.",
    "dataset_empty": "The dataset has no rows.",
    "dataset_missing": "The node's owner offers no dataset of this name any more.",
    "dataset_not_finite": "The dataset has missing values or infinities.",
    "dataset_not_numeric": "The dataset is not a table of numbers.",
    "dataset_ragged": "The dataset's columns differ in their number of rows.",
    "dataset_too_large": "The dataset is larger than the node reads.",
    "dataset_unreadable": "The dataset's file cannot be read.",
    "extra_missing": "The node lacks a package that reads the dataset.",
    "loader_failed": "The owner's own loader of the dataset failed.",
    "loader_refused": "The owner's own loader gave no dataset.",
    "query_exposed": "The node's owner has to close the file of the query first.",
    "too_few_examples": "There are fewer examples than the node's owner wants a run to rest on.",
    "gpu_lost": "The GPU stopped to work in the middle of it.",
    "disk_full": "The node's disk is full.",
    "model_refused": "The model that came down is not the plan's.",
    "no_examples": "The client has no examples for this phase.",
    "out_of_memory": "The work ran out of memory.",
    "phase_unknown": "The run's strategy has no such phase.",
    "plan_depth_refused": "The strategy does not go with a plan of this kind.",
    "plan_does_not_import": "The plan does not import.",
    "plan_failed": "The plan's code failed.",
    "plan_incomplete": "The plan is incomplete.",
    "plan_loss_constant": "The plan's loss does not depend on the model's parameters.",
    "plan_loss_shape": "The plan's loss or a metric is not one floating-point number.",
    "plan_model_failed": "The plan's model() failed.",
    "plan_model_refused": "The plan's model() returned something that cannot be used.",
    "plan_options_malformed": "The plan's options.json is not a schema of options.",
    "plan_result_refused": "What the plan's own work gave cannot be used.",
    "prepare_failed": "The plan's prepare() failed.",
    "prepare_refused": "The plan's prepare() did not return inputs and targets.",
    "run_changed": "The assignment asks for another plan or other options than its run has.",
    "update_not_finite": "Training diverged: the update has NaN or infinity.",
    "sandbox_unavailable": "The node cannot hold plans in a sandbox.",
    "state_not_saved": "The client's new state could not be kept.",
    "state_refused": "The client's state cannot be read.",
    "update_too_large": "What the work made is larger than the node sends.",
    "work_crashed": "The work process ended before its work was done.",
    "work_failed": "The work failed inside the node.",
    "work_killed": "The work process was killed: it took more memory or processor time than it may.",
    "work_stalled": "The work took no step for longer than the node's idle limit.",
}


def failure(code: str, detail: str = "") -> Failed:
    """A failure with our own sentence for its code."""
    reason = SENTENCES.get(code, "The work failed; the node's owner finds the reason in its log.")
    return Failed(code=code, reason=reason, detail=detail[:DETAIL_LIMIT])


def failure_of(error: BaseException) -> Failed:
    """What a failure says outside, and in the owner's log."""
    detail = "".join(traceback.format_exception(error))[-DETAIL_LIMIT:]
    if isinstance(error, OSError):
        return failure("disk_full" if error.errno in {28, 122} else "work_failed", detail)
    if not isinstance(error, FoedusError):
        return failure("work_failed", detail)
    if error.code in OURS:
        return Failed(code=error.code, reason=f"{error.what} {error.why}".strip()[:500], detail="")
    return _placed(failure(error.code, detail), error.__cause__)


def placed(failed: Failed, raised: str, file: str = "", line: int = 0) -> Failed:
    """The failure with what a plan raised and where: both are the plan's author's own words, cut short."""
    at = f" ({file}, line {line})" if file else ""
    said = {"raised": raised, "file": file, "line": line}
    return failed.model_copy(update={**said, "reason": f"{failed.reason} It raised {raised or 'an exception'}{at}."})


def _placed(failed: Failed, cause: BaseException | None) -> Failed:
    if cause is None:
        return failed
    places = [frame for frame in traceback.extract_tb(cause.__traceback__) if frame.filename.startswith(PLAN_FILE)]
    if not places and isinstance(cause, FoedusError):
        return failed
    name = type(cause).__name__[:60]
    known = name if name.isidentifier() and name.isascii() else ""
    if not places:
        return placed(failed, known)
    return placed(failed, known, places[-1].filename.removeprefix(PLAN_FILE)[:100], places[-1].lineno or 0)
