"""Every place where the coordinator and a node can be killed on demand while a run is submitted and goes to its end."""

from __future__ import annotations


def _both(*places: str) -> tuple[str, ...]:
    return tuple(f"{place}:{when}" for place in places for when in ("before", "after"))


COORDINATOR = _both(
    "commit:first_admin",
    "commit:hello",
    "reply:POST /api/v1/node/hello",
    "reply:HEAD /api/v1/blobs/{digest}",
    "commit:submit",
    "reply:POST /api/v1/runs",
    "commit:claim",
    "commit:start_run",
    "commit:open_phase",
    "commit:lease",
    "reply:POST /api/v1/node/poll",
    "rename:blob",
    "commit:blob",
    "reply:PUT /api/v1/blobs/{digest}",
    "commit:contribute",
    "reply:POST /api/v1/node/assignments/{assignment}/contribute",
    "commit:closing",
    "commit:close_phase",
    "reply:GET /api/v1/blobs/{digest}",
    "commit:commit_round",
    "commit:complete_run",
    "commit:told",
)
"""What a run passes, in this order."""

GREETED = COORDINATOR[:6]
"""What is passed before there is a run."""

AGAIN = (
    ("reply:POST /api/v1/runs:before", "reply:POST /api/v1/runs:after", "commit:told:after"),
    ("commit:complete_run:after",),
)
"""Those of them that a run does not pass in which the others were passed with a kill at each: two more runs."""

ALONE = _both("commit:blob", "reply:GET /api/v1/blobs/{digest}", "reply:PUT /api/v1/blobs/{digest}")
"""Those of them that only models pass which are too large for a message."""

NODE = _both("commit:node_begun", "rename:node_blob", "rename:node_state", "commit:node_audit")
FIRST_CONTACT = _both(
    "rename:node_key",
    "commit:node_format",
    "commit:node_audit",
    "commit:node_logged",
    "commit:node_init",
    "commit:node_join",
    "commit:node_dataset",
    "commit:node_loading",
    "commit:node_plan",
    "rename:node_blob",
    "rename:node_plan",
)
"""What a node passes before it works for the first time."""

SOMETIMES = _both(
    "rename:node_saved",
    "rename:node_snapshot",
    "commit:migrate",
    "commit:lead",
    "commit:leave",
    "commit:seen",
    "commit:nonce",
    "commit:token_used",
    "commit:refused",
    "commit:node_witness",
    "commit:renew",
    "commit:late",
    "commit:clash",
    "commit:progress",
    "reply:POST /api/v1/node/progress",
    "reply:POST /api/v1/node/assignments/{assignment}/renew",
    "reply:GET /readyz",
    "reply:GET /api/v1/runs/{run}",
)
"""Places that a run passes only if it is slow or somebody looks; a lost one of these changes nothing."""

DRAWS = _both("commit:tick", "commit:draw", "commit:give_up", "commit:abandon_phase")
"""What a run passes, in this order, whose schedule draws, and whose clients do not answer."""

UPLOADS = _both(
    "commit:upload",
    "reply:POST /api/v1/uploads",
    "commit:upload_part",
    "reply:PATCH /api/v1/uploads/{upload}",
    "reply:HEAD /api/v1/uploads/{upload}",
    "commit:upload_complete",
)
"""What a blob passes that goes up in chunks."""

COLLECTION = _both("commit:gc_uploads", "commit:gc_mark", "commit:gc_forget")
RESTORATION = _both("rename:blob", "commit:restore")
MENDING = _both("commit:mend")
"""What making a torn state again passes."""

ALIGNING = _both(
    "commit:submit",
    "commit:schema",
    "reply:POST /api/v1/node/schemas",
    "rename:blob",
    "commit:parameters",
    "reply:POST /api/v1/runs/{run}/parameters",
)
"""What a run passes, in this order, whose tables are aligned before round 1."""

RARE = (*DRAWS, *UPLOADS, *COLLECTION, *RESTORATION, *MENDING, *ALIGNING)

ELSEWHERE = {
    "ask": "no schedule asks a client by name after its phase was opened",
    "upload_forget": "the bytes were not those that were promised, and are nobody's",
    "fail_run": "a failed run is tried again by a person",
    "fail": "a contribution that failed; as one that counts",
    "claim_webhook": "tests of webhooks kill their sender",
    "delivered": "as above",
    "leave_webhook": "as above",
    "login": "of people, not of runs",
    "logout": "as above",
    "recover_admin": "as above",
}
"""Commits at which no test of runs kills: name → why."""
