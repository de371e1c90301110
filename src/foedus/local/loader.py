"""Import a training plan from its bundle. Only a process that may run foreign code imports this module.

The files are imported from memory: no name that was received becomes a path.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import linecache
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from foedus.domain.errors import PlanError
from foedus.domain.names import NAME
from foedus.domain.plan import PlanBundle
from foedus.local.directions import KNOWN
from foedus.local.plan import TrainingPlan


class _BundleLoader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``foedus_plan_<digest>`` and the modules beside the entry in the bundle's bytes."""

    def __init__(self, bundle: PlanBundle) -> None:
        self.package = f"foedus_plan_{bundle.digest[:16]}"
        self._sources = {
            f"{self.package}.{path.removesuffix('.py').replace('/', '.')}": (path, content)
            for path, content in bundle.files.items()
            if path.endswith(".py")
        }

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname == self.package or any(name.startswith(fullname + ".") for name in self._sources):
            is_package = fullname not in self._sources
            return importlib.util.spec_from_loader(fullname, self, is_package=is_package)
        return importlib.util.spec_from_loader(fullname, self) if fullname in self._sources else None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ not in self._sources:
            return
        path, content = self._sources[module.__name__]
        source, shown = content.decode("utf-8"), f"<plan>/{path}"
        linecache.cache[shown] = (len(source), None, source.splitlines(keepends=True), shown)
        exec(compile(source, shown, "exec"), module.__dict__)


def import_plan(bundle: PlanBundle) -> Mapping[str, Any]:
    """Run the plan's entry file; the names that it defines.

    Raises:
        PlanError: ``plan_does_not_import`` with the line.
    """
    loader = _BundleLoader(bundle)
    for name in [name for name in sys.modules if name == loader.package or name.startswith(loader.package + ".")]:
        del sys.modules[name]
    known = [finder.package for finder in sys.meta_path if isinstance(finder, _BundleLoader)]
    if loader.package not in known:
        sys.meta_path.append(loader)
    try:
        entry = bundle.entry.removesuffix(".py").replace("/", ".")
        module = importlib.import_module(f"{loader.package}.{entry}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PlanError(
            "plan_does_not_import",
            f"The plan {bundle.entry} does not import.",
            f"{type(error).__name__}: {error}{_line_of(error)}",
            "Run the file with Python, and mend what it says.",
        ) from error
    return vars(module)


def _line_of(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("<plan>/")]
    return f" ({frames[-1].filename.removeprefix('<plan>/')}, line {frames[-1].lineno})" if frames else ""


def plan_of(names: Mapping[str, Any], entry: str) -> TrainingPlan:
    """The plan that these names define; ``entry`` is what it is called in refusals.

    Raises:
        PlanError: ``plan_incomplete``.
    """
    missing = [name for name in ("model", "loss", "prepare") if not callable(names.get(name))]
    metrics: Any = names.get("metrics", {})
    if missing:
        raise _incomplete(entry, f"it defines no function {' and no function '.join(missing)}")
    if not isinstance(metrics, dict) or not all(map(_is_metric, metrics.items())):
        raise _incomplete(entry, "`metrics` is not a dict of functions by name (letters, digits, `_`, `-`; not `loss`)")
    scores: Any = names.get("scores", {})
    if not isinstance(scores, dict) or not all(map(_is_metric, scores.items())) or set(scores) & set(metrics):
        raise _incomplete(entry, "`scores` is not a dict of functions by name, other names than those of `metrics`")
    declared: Any = names.get("directions", {})
    if (
        not isinstance(declared, dict)
        or not set(declared) <= {*metrics, *scores}
        or not set(declared.values()) <= {"max", "min"}
    ):
        raise _incomplete(entry, "`directions` is not a dict of `max` or `min` by the name of a metric")
    directions = {name: declared.get(name, KNOWN.get(name, "max")) for name in metrics}
    loss: Callable[..., Any] = names["loss"]
    return TrainingPlan(names["model"], loss, metrics, directions, names["prepare"], scores, declared)


def _is_metric(item: tuple[object, object]) -> bool:
    name, function = item
    return isinstance(name, str) and NAME.fullmatch(name) is not None and name != "loss" and callable(function)


def _incomplete(entry: str, why: str) -> PlanError:
    return PlanError(
        "plan_incomplete",
        f"The plan {entry} is incomplete: {why}.",
        "A plan defines model(), loss(output, target), prepare(columns) and, if it likes, metrics and scores.",
        "Compare it with the plan that `foedus new DIR` makes.",
    )
