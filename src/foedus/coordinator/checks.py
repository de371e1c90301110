"""What a contribution must be before it counts: its tensors, weights and metrics against the phase's schema.

Called when a node contributes, before anything is recorded, and for the initial model when a run is submitted. Bytes
are read chunk by chunk, so a model of any size is checked in the memory of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from foedus.domain.codec import CHUNK, TensorFile
from foedus.domain.errors import ContributionError, TooLargeError
from foedus.domain.header import TensorSpec
from foedus.domain.plan import ModelManifest
from foedus.domain.round import Schema
from foedus.domain.tree import slices

WEIGHTS = (1e-12, 1e12)
EXAMPLES = (1.0, 1e9)
"""The least and the largest weight that is plausible; what is far below them vanishes in a mean, which is then NaN."""

UPDATE_LIMIT = 1e15
"""The largest element of an update: times :data:`EXAMPLES`, or squared, it is far from what float32 cannot hold."""

METRIC_LIMIT = 1e100
"""The largest metric: a mean weighted by :data:`EXAMPLES` is still a number."""

LISTED = 8
"""Names that an error tells at most: it is stored, and told to everybody who follows the run."""

HEADER_ROOM = 64 << 10, 1 << 10
"""Bytes that a header may have, and for each tensor. A header is parsed whole, in many times its bytes."""


def check_update(path: Path, schema: Schema) -> None:
    """Refuse an update whose tensors are not exactly the schema's, or not all finite.

    Raises:
        ContributionError: ``tensor_missing``, ``tensor_extra``, ``tensor_shape``, ``tensor_dtype``,
            ``update_not_finite``, ``update_out_of_range``; each names the tensor.
        IntegrityError: ``not_safetensors``, ``header_too_large``.
    """
    expected = {
        f"{part}/{name}": spec for part, part_spec in schema.parts.items() for name, spec in part_spec.tensors.items()
    }
    _check_file(path, expected, "the update", UPDATE_LIMIT)


def check_model(path: Path, manifest: ModelManifest) -> None:
    """Refuse an initial model whose tensors are not exactly the manifest's, or not all finite.

    Raises:
        ContributionError, IntegrityError: as :func:`check_update`.
    """
    expected = {tensor.name: TensorSpec(tuple(tensor.shape), tensor.dtype) for tensor in manifest.tensors}
    _check_file(path, expected, "the initial model", math.inf)


def check_weights(weights: Mapping[str, float], schema: Schema) -> None:
    """Refuse weights that the schema does not name, or that are not plausible.

    Raises:
        ContributionError: ``weight_refused``.

    >>> check_weights({"examples": 12.0}, Schema({}, ("examples",), ()))
    """
    if set(weights) != set(schema.weights):
        raise _weight_refused(f"It has the weights {_listed(weights)}; the phase wants {_listed(schema.weights)}.")
    for name, value in weights.items():
        least, most = EXAMPLES if name == "examples" else WEIGHTS
        if not least <= value <= most:
            raise _weight_refused(f"`{name}` is {value:g}; it must be at least {least:g} and at most {most:g}.")


def check_metrics(metrics: Mapping[str, float], schema: Schema) -> None:
    """Refuse metrics that the schema does not name, or that are not finite or absurd.

    Raises:
        ContributionError: ``metric_refused``.

    >>> check_metrics({"loss": 0.5}, Schema({}, (), ("loss",)))
    """
    unknown = set(metrics) - set(schema.metrics)
    if unknown:
        raise _metric_refused(f"It has the metrics {_listed(unknown)}; the phase knows {_listed(schema.metrics)}.")
    for name, value in metrics.items():
        if not abs(value) <= METRIC_LIMIT:
            raise _metric_refused(f"`{name}` is {value:g}; it must be a number of at most {METRIC_LIMIT:g}.")


def _check_file(path: Path, expected: Mapping[str, TensorSpec], subject: str, limit: float) -> None:
    _check_size(path, expected)
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
        _check_values(file, subject, limit)


def _check_size(path: Path, expected: Mapping[str, TensorSpec]) -> None:
    """Refuse a header that is long beyond need before it is parsed."""
    with path.open("rb") as file:
        claimed = int.from_bytes(file.read(8), "little")
    room = HEADER_ROOM[0] + HEADER_ROOM[1] * len(expected)
    if room < claimed <= path.stat().st_size:
        raise TooLargeError(
            "header_too_large",
            f"The header has {claimed} bytes; for {len(expected)} tensors {room} are enough.",
            "",
            "Send these tensors alone, without metadata.",
        )


def _check_values(file: TensorFile, subject: str, limit: float) -> None:
    sizes = {("", name): entry.elements for name, entry in file.header.entries.items()}
    for piece in slices(sizes, CHUNK):
        tensor = file.read(piece.name, piece.start, piece.stop)
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        largest = max(abs(bound.item()) for bound in tensor.aminmax())
        if not math.isfinite(largest):
            raise _values_refused("update_not_finite", f"{subject}'s tensor {piece.name} holds NaN or infinity")
        if largest > limit:
            what = f"{subject}'s tensor {piece.name} holds {largest:g}; at most {limit:g} is taken"
            raise _values_refused("update_out_of_range", what)


def _values_refused(code: str, what: str) -> ContributionError:
    why = "It would spoil the model for everybody."
    return ContributionError(code, f"{what[:1].upper()}{what[1:]}.", why, "Lower the learning rate, or mend the data.")


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


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:LISTED]))
    return shown + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
