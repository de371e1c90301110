"""The researcher's side of a run: from run.toml to plan, model, initial parameters and strategy.

This runs the plan's code, so the coordinator never imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from foedus.domain.plan import ModelManifest, PlanBundle, read_bundle
from foedus.domain.run import RunSpec, read_run, run_file
from foedus.domain.tree import Tensors, clone
from foedus.engine.fits import within_memory
from foedus.local.loader import load_plan
from foedus.local.plan import TrainingPlan, build_model, manifest_of, tensors_of
from foedus.strategies.catalogue import build, check_options
from foedus.strategies.strategy import RunContext, Strategy


@dataclass(frozen=True)
class Prepared:
    """A run that could begin: everything checked, nothing run. ``model`` holds the initial parameters and buffers."""

    spec: RunSpec
    base: Path
    bundle: PlanBundle
    plan: TrainingPlan
    model: Tensors
    manifest: ModelManifest
    strategy: Strategy


def prepare(path: Path, overrides: Mapping[str, str] | None = None) -> Prepared:
    """Read run.toml (or a folder's), apply ``a.b=c`` overrides, import the plan, compute the initial parameters.

    Raises:
        ConfigError, PlanError: where anything is wrong, before anything runs.
    """
    return prepare_spec(read_spec(path, overrides or {}), run_file(path).parent)


def prepare_spec(spec: RunSpec, base: Path) -> Prepared:
    """As :func:`prepare`, for a run that was read; ``base`` is the folder that its paths are relative to."""
    return prepare_bundle(spec, base, read_bundle(base / spec.plan))


def prepare_bundle(spec: RunSpec, base: Path, bundle: PlanBundle) -> Prepared:
    """As :func:`prepare_spec`, for a plan whose files were read."""
    return prepare_plan(spec, base, bundle, load_plan(bundle))


def prepare_plan(spec: RunSpec, base: Path, bundle: PlanBundle, plan: TrainingPlan) -> Prepared:
    """As :func:`prepare_bundle`, for a plan that was imported, or made in Python."""
    torch.set_num_threads(1)
    with within_memory():
        module = build_model(plan, spec.seed)
    manifest = manifest_of(plan, module)
    strategy = build(RunContext(spec, manifest))
    return Prepared(spec, base, bundle, plan, clone(tensors_of(module)), manifest, strategy)


def read_spec(path: Path, overrides: Mapping[str, str]) -> RunSpec:
    """As :func:`foedus.domain.run.read_run`, with the strategy's options validated too."""
    spec = read_run(path, overrides)
    check_options(spec.strategy.name, spec.strategy.options)
    return spec
