"""Take a simulation up again after the newest checkpoint in its folder that is whole, or run it once more.

Either way it is the same run, plan and choice.

What the folder holds was perhaps written elsewhere: it is read strictly, and the plan and run.toml have to be those
that the run was begun with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foedus.data.align import Alignment, parse_alignment
from foedus.domain.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, PlanError
from foedus.domain.plan import PlanBundle, read_bundle
from foedus.domain.run import RunSpec
from foedus.domain.table import flat
from foedus.engine.checkpoints import Checkpoint, newest
from foedus.engine.choice import Choice, Engine
from foedus.engine.folder import ALIGNMENT, ENVIRONMENT, ROUNDS, RUN, SUMMARY, Position, RunFolder, is_run, versions
from foedus.engine.json_text import read_json
from foedus.engine.keeping import Keeping
from foedus.engine.prepare import Prepared, prepare_bundle, read_spec
from foedus.strategies.stopping import stopped

MAY_CHANGE = ("rounds", "data.folder", "data.file", "data.cache", "time.trace", "checkpoint", "track")
"""Keys of run.toml that decide no bit of the rounds that are done: more rounds, where files lie, what is kept."""


@dataclass(frozen=True)
class TakenUp:
    """A run that can go on, on an ``engine``; ``notes`` are for people."""

    prepared: Prepared
    folder: RunFolder
    keeping: Keeping
    name: str
    rounds: int
    seconds: float
    engine: Engine
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Begun:
    """A run that was begun, as its folder has it: what it was, what it shall be, and the plan."""

    facts: Mapping[str, Any]
    kept: RunSpec
    spec: RunSpec
    bundle: PlanBundle


def take_up(path: Path, overrides: Mapping[str, str], asked: Engine) -> TakenUp:
    """The run in the folder ``path``, cut back to its newest checkpoint, or to its beginning where there is none.

    What is not ``asked`` for stays as it was.

    Raises:
        NotFoundError: ``run_folder_missing``.
        ConflictError: ``run_in_progress``, ``run_complete``, ``run_changed``, ``run_not_simulated``.
        ConfigError: ``resume_refused``, ``kernel_recorded``; and as for any run, where an override is wrong.
        PlanError: ``plan_changed``.
        IntegrityError: ``checkpoints_unusable``.
    """
    _check_is_run(path)
    folder = RunFolder(path, None)
    begun = _begun(path, overrides)
    facts, spec = begun.facts, begun.spec
    checkpoint, notes = newest(path, path / ROUNDS)
    _refuse_complete(path, begun.kept, spec, checkpoint)
    engine = _engine(asked, facts, checkpoint.choice if checkpoint else facts)
    prepared = _prepared(path, begun)
    stays = {name: value for name, value in facts.items() if name not in (*versions(), "next")}
    folder.go_on(spec, stays, checkpoint.position if checkpoint else Position())
    keeping = Keeping(folder, spec.checkpoint, checkpoint)
    rounds, seconds = (checkpoint.rounds, checkpoint.seconds) if checkpoint else (0, 0.0)
    return TakenUp(prepared, folder, keeping, _name(facts), rounds, seconds, engine, tuple(notes))


def once_more(path: Path, overrides: Mapping[str, str], asked: Engine) -> tuple[str, Prepared, Engine]:
    """The run in the folder ``path`` from its beginning, computed as it was: its name, the run, the engine.

    Raises:
        NotFoundError, ConflictError, ConfigError, PlanError: as :func:`take_up`, but for a run that goes on or is
            complete.
    """
    _check_is_run(path)
    begun = _begun(path, overrides)
    return _name(begun.facts), _prepared(path, begun), _engine(asked, begun.facts, begun.facts)


def _check_is_run(path: Path) -> None:
    if not is_run(path):
        raise NotFoundError(
            "run_folder_missing", f"{path} holds no run.", "", "Name the folder that `foedus simulate` said, runs/…"
        )


def _begun(path: Path, overrides: Mapping[str, str]) -> _Begun:
    facts = read_json(path / ENVIRONMENT)
    if hashlib.sha256((path / RUN).read_bytes()).hexdigest() not in (facts.get("run"), facts.get("next")):
        raise _changed(path / RUN)
    if "plan" not in facts:
        raise ConflictError(
            "run_not_simulated", f"The run in {path} is no simulation.", "", "`foedus run resume` goes on."
        )
    kept, spec = read_spec(path / RUN, {}), read_spec(path / RUN, overrides)
    _refuse_changes(kept, spec)
    bundle = read_bundle(path / kept.plan)
    if facts.get("plan") != bundle.digest:
        raise PlanError(
            "plan_changed",
            f"The plan in {path} is not the one that the run was begun with.",
            "One changed byte is another plan, whose rounds would not go on from those that are done.",
            "Restore it, or begin another run.",
        )
    return _Begun(facts, kept, spec, bundle)


def _prepared(path: Path, begun: _Begun) -> Prepared:
    base = Path(str(begun.facts.get("base", "")))
    alignment = _alignment(path, begun.facts)
    return prepare_bundle(begun.spec, base if base.is_dir() else path, begun.bundle, alignment)


def _engine(asked: Engine, facts: Mapping[str, Any], made: Mapping[str, Any]) -> Engine:
    """What was chosen, if that is known, or else what was asked for."""
    return _as_before(asked, _choice(made)) if "kernel" in made else _as_asked(asked, facts)


def _name(facts: Mapping[str, Any]) -> str:
    return str(facts.get("name", "run"))


def _refuse_changes(kept: RunSpec, spec: RunSpec) -> None:
    before, after = flat(kept.model_dump(mode="json")), flat(spec.model_dump(mode="json"))
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    refused = [key for key in changed if not any(key == may or key.startswith(may + ".") for may in MAY_CHANGE)]
    if refused:
        raise ConfigError(
            "resume_refused",
            f"`{refused[0]}` cannot change in a run that was begun.",
            "The rounds that are done were run with the value that the run was begun with.",
            f"Only these may change: {', '.join(MAY_CHANGE)}. For anything else begin another run.",
        )
    if spec.rounds < kept.rounds:
        raise ConfigError(
            "resume_refused", f"`rounds` is {kept.rounds}, and can only be raised.", "", "Leave it, or give more."
        )


def _refuse_complete(path: Path, kept: RunSpec, spec: RunSpec, checkpoint: Checkpoint | None) -> None:
    summary = read_json(path / SUMMARY) if (path / SUMMARY).is_file() else {}
    if summary.get("status") != "completed":
        return
    why = stopped(checkpoint.snapshot.state) if checkpoint else ""
    if spec.rounds == kept.rounds or why:
        raise ConflictError(
            "run_complete",
            f"The run in {path} is complete.",
            why,
            f"More rounds: `foedus simulate --resume {path} --set rounds=N`." if not why else "Begin another run.",
        )
    if checkpoint is None:
        raise ConflictError(
            "run_complete",
            f"The run in {path} is complete, and kept no checkpoint to go on from.",
            "`[checkpoint] every` is 0.",
            "Begin another run with more rounds.",
        )


def _alignment(path: Path, facts: Mapping[str, Any]) -> Alignment | None:
    """How the rounds that are done had the sites' tables read, whatever is in these by now."""
    if "alignment" not in facts:
        return None
    file = path / ALIGNMENT
    content = file.read_bytes() if file.is_file() else b""
    if facts["alignment"] != hashlib.sha256(content).hexdigest():
        raise _changed(file)
    return parse_alignment(content)


def _as_before(asked: Engine, choice: Choice) -> Engine:
    """What was asked for, with the kernel that the run was begun with; where it runs decides no bit, and may change."""
    if asked.kernel not in ("auto", choice.kernel):
        raise ConfigError(
            "kernel_recorded",
            f"The run was begun with kernel {choice.kernel}, and stays with it.",
            "Another kernel gives other bits.",
            "Leave --kernel out, or begin another run.",
        )
    as_it_was = asked.executor == "auto" and asked.workers is None
    executor = replace(asked, executor=choice.executor, workers=choice.workers) if as_it_was else asked
    return replace(executor, kernel=choice.kernel, device=choice.device, recipe=choice.recipe)


def _as_asked(asked: Engine, facts: Mapping[str, Any]) -> Engine:
    """What was asked for, and where nothing was, what was asked for when the run was begun."""
    try:
        before = TypeAdapter(Engine).validate_python(facts.get("asked", {}))
    except ValidationError as error:
        raise _malformed() from error
    return replace(before, **{part: said for part, said in asdict(asked).items() if said != getattr(Engine(), part)})


def _choice(table: Mapping[str, Any]) -> Choice:
    match table:
        case {"kernel": str(), "executor": str(), "workers": int(), "reason": str(), "stack": int()}:
            names = [field.name for field in fields(Choice)]
            return Choice(**{name: table[name] for name in names if name in table})
    raise _malformed()


def _malformed() -> IntegrityError:
    return IntegrityError(
        "choice_malformed", "The folder does not say how the run was computed.", "", "Begin the run anew."
    )


def _changed(file: Path) -> ConflictError:
    return ConflictError(
        "run_changed",
        f"{file} was changed.",
        "The rounds that are done were run with what it said.",
        "Restore it; `--set` changes what may change: " + ", ".join(MAY_CHANGE) + ".",
    )
