"""The three depths of plans behind one door: what imports, what begins a run, and what client work asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from foedus.data.dataset import Columns
from foedus.domain.errors import ConfigError, PlanError
from foedus.domain.plain import Json
from foedus.domain.plan import COMMAND_ENTRY, ModelManifest, PlanBundle
from foedus.domain.tree import Tensors, clone
from foedus.local.command import command_plan
from foedus.local.function import function_plan
from foedus.local.loader import import_plan, plan_of
from foedus.local.objective import EagerObjective
from foedus.local.own import OwnObjective, OwnPlan, initial_of, own_manifest, quiet
from foedus.local.plan import TrainingPlan, build_model, manifest_of, tensors_of
from foedus.local.plan_options import check_of

Plan = TrainingPlan | OwnPlan


@dataclass(frozen=True)
class Beginning:
    """A plan as a run begins with it: the options of its own bound, its initial model, and what that is made of."""

    plan: Plan
    model: Tensors
    manifest: ModelManifest


def load_plan(bundle: PlanBundle, folder: Path | None = None) -> Plan:
    """The plan in a bundle, of whichever depth it is; ``folder`` has a read-only copy of its files, where one is made.

    Raises:
        PlanError: ``plan_does_not_import``, ``plan_incomplete``, ``plan_options_malformed``.
    """
    if bundle.entry == COMMAND_ENTRY:
        return command_plan(bundle, check_of(bundle), folder)
    names = import_plan(bundle)
    if "fit" in names:
        return function_plan(names, bundle.entry, check_of(bundle))
    return plan_of(names, bundle.entry)


def begin(plan: Plan, seed: int, options: Mapping[str, Any], schema: Mapping[str, Json] | None = None) -> Beginning:
    """The plan's beginning in a run of this seed; ``options`` are the strategy's.

    ``schema``: of the aligned tables (:func:`foedus.data.align.schema_of`), where the run aligns them. It is given to
    ``model(schema)`` and ``prepare(columns, schema)`` of a plan that wants it, and is the option ``schema`` of others.

    Raises:
        ConfigError: ``config_refused`` where options of a plan's own are not what it says they are.
        PlanError: where there is no initial model, or none that can be used.
    """
    if isinstance(plan, TrainingPlan):
        plan = _told(plan, schema)
        module = build_model(plan, seed)
        return Beginning(plan, clone(tensors_of(module)), manifest_of(plan, module))
    local = options.get("local", {})
    own = plan.check(local.get("options", {}) if isinstance(local, Mapping) else {})
    plan = replace(plan, options=own if schema is None else {**own, "schema": dict(schema)})
    model = initial_of(plan, seed)
    return Beginning(plan, model, own_manifest(plan, model))


def _told(plan: TrainingPlan, schema: Mapping[str, Json] | None) -> TrainingPlan:
    """The plan, whose functions that want the schema have it.

    Raises:
        PlanError: ``plan_wants_schema`` where there is none.
    """
    model, prepare = _wants(plan.model, 1), _wants(plan.prepare, 2)
    if schema is None and (model or prepare):
        raise PlanError(
            "plan_wants_schema",
            f"The plan's {'model' if model else 'prepare'}() wants the schema of tables, and the run aligns none.",
            "It is given to plans of runs with a table [data.align].",
            "Add [data.align] to run.toml, or take the argument out of the plan.",
        )
    given = {} if schema is None else dict(schema)
    make: Callable[..., Any] = plan.model
    return replace(
        plan,
        model=partial(make, given) if model else plan.model,
        prepare=partial(_prepared, plan.prepare, given) if prepare else plan.prepare,
    )


def _prepared(prepare: Callable[..., Any], schema: Mapping[str, Json], columns: Columns) -> Any:
    return prepare(columns, schema)


def _wants(function: Callable[..., Any], arguments: int) -> bool:
    """Whether a function has to be given so many arguments."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # of a class in C, say: it has to do without
        return False
    needed = [each for each in parameters if each.default is each.empty and each.kind in _BY_PLACE]
    return len(needed) >= arguments


_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def objective_of(
    plan: Plan, seed: int, device: str = "cpu", alive: Callable[[], None] = quiet
) -> EagerObjective | OwnObjective:
    """What client work asks of a plan, one client at a time; ``alive`` is called while work of its own lasts."""
    return OwnObjective(plan, alive) if isinstance(plan, OwnPlan) else EagerObjective(plan, seed, device)


def check_depth(plan: Plan, strategy: str, *, gradients: bool) -> None:
    """Refuse a strategy and a plan that do not go together; ``gradients``: the strategy steps along a plan's loss.

    Raises:
        ConfigError: ``plan_depth_refused``, or ``config_refused`` where a plan of model and loss is given no options.
    """
    if isinstance(plan, OwnPlan) and gradients:
        raise ConfigError(
            "plan_depth_refused",
            f"The strategy `{strategy}`, as it is set, does not go with a {plan.depth} plan.",
            "It steps along the gradients of a plan's loss, and this plan does its own training.",
            "Use fedavg, fedasync or fedbuff, with no key in [strategy.local] but the table `options`; or write the "
            "plan with model() and loss().",
        )
    if isinstance(plan, TrainingPlan) and not gradients:
        raise ConfigError(
            "config_refused",
            f"[strategy] of {strategy} is refused: `local.lr`: field required.",
            "A plan with model() and loss() is trained by the platform, which has to know how.",
            "Give at least the learning rate, as `local = { lr = 0.1 }`.",
        )
