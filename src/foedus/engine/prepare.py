"""The researcher's side of a run: from run.toml to plan, model, initial parameters and strategy.

This runs the plan's code, so the coordinator never imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from foedus.data.align import Alignment, schema_of
from foedus.data.catalogue import alignment_here
from foedus.domain.codec import TensorFile
from foedus.domain.errors import ConfigError, FoedusError
from foedus.domain.plan import ModelManifest, PlanBundle, read_bundle
from foedus.domain.run import RunSpec, read_run, run_file
from foedus.domain.tree import Tensors, names_of_dtypes
from foedus.engine.fits import within_memory
from foedus.local.checkpointers import asked_of
from foedus.local.kinds import Plan, begin, check_depth, load_plan
from foedus.strategies.catalogue import build, check_options
from foedus.strategies.strategy import RunContext, Strategy


@dataclass(frozen=True)
class Prepared:
    """A run that could begin: everything checked, nothing run. ``model`` holds the initial parameters and buffers.

    ``saved``: where checkpointers keep models, if anywhere. ``alignment``: how tables that differ are read.
    """

    spec: RunSpec
    base: Path
    bundle: PlanBundle
    plan: Plan
    model: Tensors
    manifest: ModelManifest
    strategy: Strategy
    saved: Path | None = None
    alignment: Alignment | None = None


def prepare(path: Path, overrides: Mapping[str, str] | None = None, alignment: Alignment | None = None) -> Prepared:
    """Read run.toml (or a folder's), apply ``a.b=c`` overrides, import the plan, compute the initial parameters.

    ``alignment``: how nodes' tables are read, where the coordinator has it from them; else, where the run aligns
    tables, it is made of what lies here.

    Raises:
        ConfigError, PlanError: where anything is wrong, before anything runs.
    """
    return prepare_spec(read_spec(path, overrides or {}), run_file(path).parent, alignment)


def prepare_spec(spec: RunSpec, base: Path, alignment: Alignment | None = None) -> Prepared:
    """As :func:`prepare`, for a run that was read; ``base`` is the folder that its paths are relative to."""
    return prepare_bundle(spec, base, read_bundle(base / spec.plan), alignment)


def prepare_bundle(spec: RunSpec, base: Path, bundle: PlanBundle, alignment: Alignment | None = None) -> Prepared:
    """As :func:`prepare_spec`, for a plan whose files were read."""
    return prepare_plan(spec, base, bundle, load_plan(bundle), alignment)


def prepare_plan(
    spec: RunSpec, base: Path, bundle: PlanBundle, plan: Plan, alignment: Alignment | None = None
) -> Prepared:
    """As :func:`prepare_bundle`, for a plan that was imported, or made in Python."""
    torch.set_num_threads(1)
    alignment = alignment or alignment_here(spec.data, base)
    schema = None if alignment is None else schema_of(alignment)
    with within_memory():
        begun = begin(plan, spec.seed, spec.strategy.options, schema)
    strategy = build(RunContext(spec, begun.manifest))
    asked_of(spec, begun.plan)
    check_depth(plan, strategy.name, gradients=strategy.gradients)
    model = begun.model if spec.initial is None else _initial(base / spec.initial, begun.manifest)
    return Prepared(spec, base, bundle, begun.plan, model, begun.manifest, strategy, alignment=alignment)


def _initial(path: Path, manifest: ModelManifest) -> Tensors:
    """The model in the file that a run begins with.

    Raises:
        ConfigError: ``initial_refused`` where it cannot be read, or is not a model of the plan.
    """
    try:
        with TensorFile(path) as file:
            model = dict(file)
    except (FoedusError, OSError) as error:
        raise _initial_refused(path, "It cannot be read, or is no safetensors file.") from error
    wanted = {tensor.name: (tuple(tensor.shape), tensor.dtype) for tensor in manifest.tensors}
    found = {name: (tuple(tensor.shape), names_of_dtypes[tensor.dtype]) for name, tensor in model.items()}
    if wrong := [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]:
        raise _initial_refused(path, f"Its tensor {wrong[0][:80]!a} is not as the plan's model has it.")
    return model


def _initial_refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        "initial_refused",
        f"`initial` names {path}, with which the run cannot begin.",
        why,
        "Name a model of the same plan: `foedus model download` fetches one, and each round of a run keeps one.",
    )


def read_spec(path: Path, overrides: Mapping[str, str]) -> RunSpec:
    """As :func:`foedus.domain.run.read_run`, with the strategy's options validated too."""
    spec = read_run(path, overrides)
    check_options(spec.strategy.name, spec.strategy.options)
    return spec
