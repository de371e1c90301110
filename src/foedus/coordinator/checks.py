"""What a contribution must be before it counts: its tensors, weights and metrics against the phase's schema.

Called when a node contributes, before anything is recorded, and for the initial model when a run is submitted. Bytes
are read chunk by chunk, so a model of any size is checked in the memory of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from foedus.domain.codec import TensorFile
from foedus.domain.errors import ContributionError
from foedus.domain.plan import ModelManifest
from foedus.domain.round import Schema
from foedus.domain.tree import TensorSpec, slices

CHUNK = 1 << 20
"""Elements that are looked at at once."""

WEIGHT_LIMIT = 1e12
EXAMPLES_LIMIT = 1e9


def check_update(path: Path, schema: Schema) -> None:
    """Refuse an update whose tensors are not exactly the schema's, or not all finite.

    Raises:
        ContributionError: ``tensor_missing``, ``tensor_extra``, ``tensor_shape``, ``tensor_dtype``,
            ``update_not_finite``; each names the tensor.
        IntegrityError: ``not_safetensors``, ``header_too_large``.
    """
    expected = {
        f"{part}/{name}": spec for part, part_spec in schema.parts.items() for name, spec in part_spec.tensors.items()
    }
    _check_file(path, expected, "the update")


def check_model(path: Path, manifest: ModelManifest) -> None:
    """Refuse an initial model whose tensors are not exactly the manifest's, or not all finite.

    Raises:
        ContributionError, IntegrityError: as :func:`check_update`.
    """
    expected = {tensor.name: TensorSpec(tuple(tensor.shape), tensor.dtype) for tensor in manifest.tensors}
    _check_file(path, expected, "the initial model")


def check_weights(weights: Mapping[str, float], schema: Schema) -> None:
    """Refuse weights that the schema does not name, or that are not plausible.

    Raises:
        ContributionError: ``weight_refused``.

    >>> check_weights({"examples": 12.0}, Schema({}, ("examples",), ()))
    """
    if set(weights) != set(schema.weights):
        raise _weight_refused(f"It has the weights {_listed(weights)}; the phase wants {_listed(schema.weights)}.")
    for name, value in weights.items():
        limit = EXAMPLES_LIMIT if name == "examples" else WEIGHT_LIMIT
        if not (math.isfinite(value) and 0 < value <= limit):
            raise _weight_refused(f"`{name}` is {value:g}; it must be above 0 and at most {limit:g}.")


def check_metrics(metrics: Mapping[str, float], schema: Schema) -> None:
    """Refuse metrics that the schema does not name, or that are not finite.

    Raises:
        ContributionError: ``metric_refused``.

    >>> check_metrics({"loss": 0.5}, Schema({}, (), ("loss",)))
    """
    unknown = set(metrics) - set(schema.metrics)
    if unknown:
        raise _metric_refused(f"It has the metrics {_listed(unknown)}; the phase knows {_listed(schema.metrics)}.")
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise _metric_refused(f"`{name}` is {value}.")


def _check_file(path: Path, expected: Mapping[str, TensorSpec], subject: str) -> None:
    with TensorFile(path) as file:
        found = {name: entry.spec for name, entry in file.header.entries.items()}
        for name in expected:
            if name not in found:
                raise _refused("tensor_missing", f"{subject} lacks the tensor {name}", expected)
        for name, spec in found.items():
            if name not in expected:
                raise _refused("tensor_extra", f"{subject} has a tensor {name[:80]!a} too many", expected)
            if spec.shape != expected[name].shape:
                want = f"{list(expected[name].shape)}, not {list(spec.shape)}"
                raise _refused("tensor_shape", f"{subject}'s tensor {name} must have the shape {want}", expected)
            if spec.dtype != expected[name].dtype:
                want = f"{expected[name].dtype}, not {spec.dtype}"
                raise _refused("tensor_dtype", f"{subject}'s tensor {name} must have the dtype {want}", expected)
        _check_finite(file, subject)


def _check_finite(file: TensorFile, subject: str) -> None:
    sizes = {("", name): entry.elements for name, entry in file.header.entries.items()}
    for piece in slices(sizes, CHUNK):
        tensor = file.read(piece.name, piece.start, piece.stop)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ContributionError(
                "update_not_finite",
                f"{subject[:1].upper()}{subject[1:]}'s tensor {piece.name} holds NaN or infinity.",
                "It would spoil the model for everybody.",
                "Lower the learning rate, or mend the data.",
            )


def _refused(code: str, what: str, expected: Mapping[str, TensorSpec]) -> ContributionError:
    return ContributionError(
        code,
        f"{what[:1].upper()}{what[1:]}.",
        f"The run's model declares {len(expected)} tensors with names, shapes and dtypes, and nothing else is taken.",
        "Send exactly these.",
    )


def _weight_refused(why: str) -> ContributionError:
    return ContributionError("weight_refused", "The contribution's weights are refused.", why, "Send true weights.")


def _metric_refused(why: str) -> ContributionError:
    return ContributionError("metric_refused", "The contribution's metrics are refused.", why, "Send what is asked.")


def _listed(names: object) -> str:
    return ", ".join(sorted(map(repr, names))) if isinstance(names, (set, tuple, Mapping)) else repr(names)
