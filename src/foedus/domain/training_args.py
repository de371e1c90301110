"""Training arguments by the names of other platforms, put where run.toml has them, before anything is validated.

The table ``[training_args]`` takes the arguments of Fed-BioMed's experiments; FL4Health's ``local_epochs`` and
``local_steps`` are taken in ``[strategy.local]``. After this a run has one spelling; nodes and policies see no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from foedus.domain.errors import ConfigError
from foedus.domain.table import Amount, PositiveInt, Rate, Table, validate

ARGUMENTS, STEPS, EPOCHS = "training_args", "local_steps", "local_epochs"
NAMES = {EPOCHS: "epochs", STEPS: "num_updates"}
"""FL4Health's names of ``[strategy.local]``, of which a run gives exactly one, and foedus's."""

PLACES = {
    "epochs": "strategy.local.epochs",
    "num_updates": "strategy.local.num_updates",
    "dry_run": "strategy.local.dry_run",
    "batch_maxnum": "strategy.local.batch_maxnum",
    "log_interval": "strategy.local.log_interval",
    "loader_args.batch_size": "strategy.local.batch_size",
    "optimizer_args.lr": "strategy.local.lr",
    "optimizer_args.momentum": "strategy.local.momentum",
    "optimizer_args.weight_decay": "strategy.local.weight_decay",
    "random_seed": "seed",
    "test_ratio": "test.ratio",
    "test_on_global_updates": "test.on_global_updates",
    "test_on_local_updates": "test.on_local_updates",
    "shuffle_testing_dataset": "test.shuffle",
}
"""Where run.toml has what an argument says."""


class LoaderArgs(Table):
    """How batches are made."""

    batch_size: PositiveInt | None = None


class OptimizerArgs(Table):
    """The clients' optimizer."""

    lr: Rate | None = None
    momentum: Amount | None = None
    weight_decay: Amount | None = None


class TrainingArgs(Table):
    """Fed-BioMed's arguments that mean the same here, with its defaults; what it takes otherwise has no effect here.

    Arguments with one allowed value say what foedus always does. Metrics and their arguments are the plan's own.
    """

    epochs: PositiveInt | None = None
    num_updates: PositiveInt | None = None
    dry_run: bool = False
    batch_maxnum: PositiveInt | None = None
    log_interval: PositiveInt = 10
    loader_args: LoaderArgs = LoaderArgs()
    optimizer_args: OptimizerArgs = OptimizerArgs()
    random_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    test_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    test_on_global_updates: bool = False
    test_on_local_updates: bool = False
    shuffle_testing_dataset: bool = False
    share_persistent_buffers: Literal[True] = True
    use_gpu: Literal[False] = False


def resolved(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A run's table with every argument under its own key.

    Raises:
        ConfigError: ``config_refused``, which names the argument, where one is unknown, has another type, is said
            twice, or where neither epochs nor updates are said.

    >>> resolved({"strategy": {"local": {"local_steps": 5}}}, "run.toml")
    {'strategy': {'local': {'num_updates': 5}}}
    """
    found = {**table}
    if isinstance(local := _inner(found, "strategy", "local"), Mapping) and set(NAMES) & set(local):
        found["strategy"] = {**found["strategy"], "local": _steps_or_epochs(local, where)}
    if (arguments := found.pop(ARGUMENTS, None)) is None:
        return found
    if not isinstance(arguments, Mapping):
        raise _refused(where, f"`{ARGUMENTS}` is not a table")
    args = validate(TrainingArgs, arguments, f"[{ARGUMENTS}] of {where}")
    if args.epochs is None and args.num_updates is None:
        raise _refused(where, f"`{ARGUMENTS}` has neither `epochs` nor `num_updates`")
    said = args.model_dump(exclude_unset=True, exclude_none=True)
    if _inner(found, "test", "ratio") is None:
        said.setdefault("test_ratio", args.test_ratio)
    for name, place in PLACES.items():
        if (value := _inner(said, *name.split("."))) is not None:
            _put(found, place, value, f"{ARGUMENTS}.{name}", where)
    tests = {"skip_model_tests": True} if args.test_on_global_updates or args.test_on_local_updates else {}
    if tests and "trainer" not in found:  # these tests stand in place of a phase of their own in each round
        found["trainer"] = tests
    return found


def _steps_or_epochs(local: Mapping[str, Any], where: str) -> dict[str, Any]:
    said = [name for name in (*NAMES, *NAMES.values()) if local.get(name) is not None]
    if len(said) != 1:
        why = f"{' and '.join(f'`{name}`' for name in said)} are both said" if said else "neither is said"
        raise _refused(where, f"`strategy.local` takes exactly one of `{EPOCHS}` and `{STEPS}`; {why}")
    kept = {key: value for key, value in local.items() if key not in (*NAMES, *NAMES.values())}
    return {**kept, NAMES.get(said[0], said[0]): local[said[0]]}


def _put(table: dict[str, Any], place: str, value: object, name: str, where: str) -> None:
    *path, last = place.split(".")
    for step in path:
        inner = table.get(step, {})
        if not isinstance(inner, Mapping):
            raise _refused(where, f"`{step}` is not a table")
        table[step] = copied = {**inner}
        table = copied
    if last in table and table[last] != value:
        raise _refused(where, f"`{name}` and `{place}` are both said, and differ")
    table[last] = value


def _inner(table: Any, *path: str) -> Any:
    for step in path:
        table = table.get(step) if isinstance(table, Mapping) else None
    return table


def _refused(where: str, why: str) -> ConfigError:
    return ConfigError("config_refused", f"{where} is refused: {why}.", "", "Correct the keys named and try again.")
