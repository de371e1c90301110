"""A client's local step as a graph of tensor operations, traced once for a stack of clients and a shape of batch.

The strategy's own ``step`` is traced (``make_fx``, over clients by ``vmap``), so no strategy and no layer is known
here. Padding has no weight: the loss of a batch is the mean of the losses of its real rows, each taken alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from foedus.domain.tree import Tensors
from foedus.engine.tidy import tidy
from foedus.local.objective import EagerObjective
from foedus.local.plan import TrainingPlan, build_model
from foedus.local.work import Batch, Carry, LocalWork


class UntraceableError(Exception):
    """Why a step cannot be a graph, as a clause."""


class RowObjective:
    """The plan's objective as a function of its tensors alone, with padded rows left out."""

    def __init__(self, plan: TrainingPlan, seed: int) -> None:
        self._module = build_model(plan, seed).train()
        self._loss = plan.loss
        self._eager = EagerObjective(plan, seed)
        self.trainable = self._eager.trainable
        self.buffers = self._eager.buffers
        self.rows: Tensors | None = None

    def place(self, model: Tensors) -> dict[str, Tensor]:
        """A copy, in ``rows`` where a kernel has given them."""
        if self.rows is None:
            return {name: tensor.clone() for name, tensor in model.items()}
        return {name: self.rows[name].copy_(tensor) for name, tensor in model.items()}

    def gradient(self, model: Tensors, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and loss over the rows that ``mask`` counts."""

        def value(trainable: Tensors) -> Tensor:
            output = functional_call(self._module, {**model, **trainable}, (batch.inputs,))
            rows: Tensor = vmap(self._row)(output, batch.targets)
            if batch.mask is None:
                return rows.mean()
            return (rows * batch.mask).sum() / batch.mask.sum().clamp(min=1)

        return grad_and_value(value)({name: model[name] for name in self.trainable})

    def measure(self, model: Tensors, batch: Batch) -> dict[str, Tensor]:
        """As kernel ``eager`` measures."""
        return self._eager.measure(self._eager.place(model), batch)

    def _row(self, output: Any, target: Tensor) -> Tensor:
        loss: object = self._loss(pytree.tree_map(lambda tensor: tensor[None], output), target[None])
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            raise UntraceableError("its loss is not one number for one row")
        return loss


Spec = bool | tuple[tuple[str, "Spec"], ...]


@dataclass(frozen=True)
class Form:
    """What a carry is made of: the names in its dicts, in order, and for each leaf whether it is a tensor."""

    spec: Spec

    @property
    def others(self) -> int:
        """The number of leaves that are not tensors."""
        return _count_others(self.spec)

    def join(self, tensors: Sequence[Tensor], others: Sequence[object]) -> Carry:
        """The carry with these tensors and these other leaves."""
        carry: Carry = _build(self.spec, iter(tensors), iter(others))
        return carry


def split(carry: Carry) -> tuple[Form, list[Tensor], list[object]]:
    """A carry's form, its tensors and its other leaves."""
    tensors: list[Tensor] = []
    others: list[object] = []
    return Form(_take_apart(carry, tensors, others)), tensors, others


def _take_apart(node: object, tensors: list[Tensor], others: list[object]) -> Spec:
    if isinstance(node, dict):
        return tuple((name, _take_apart(inner, tensors, others)) for name, inner in node.items())
    if isinstance(node, Tensor):
        tensors.append(node)
        return True
    others.append(node)
    return False


def _build(spec: Spec, tensors: Iterator[Tensor], others: Iterator[object]) -> Any:
    if isinstance(spec, bool):
        return next(tensors) if spec else next(others)
    return {name: _build(inner, tensors, others) for name, inner in spec}


def _count_others(spec: Spec) -> int:
    return int(not spec) if isinstance(spec, bool) else sum(_count_others(inner) for _, inner in spec)


class _Opaque:
    """Stands for a leaf that is no tensor while a step is traced: it may be passed on, and nothing else."""

    def _used(self, *_: object) -> NoReturn:
        raise UntraceableError("its step looks at a value that is not a tensor")

    __bool__ = __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __index__ = __float__ = __int__ = _used
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _used
    __hash__ = object.__hash__


Program = Callable[..., list[Tensor]]
"""``(*tensors of the carry, inputs, targets, mask) → tensors of the carry``; it may write to the first."""


@dataclass(frozen=True)
class Traced:
    """A step as a program, and whether it has a convolution in it."""

    run: Program
    convolves: bool


def trace(work: LocalWork, form: Form, example: Sequence[Tensor]) -> Traced:
    """The step of ``work`` over the tensors of ``example``: the carry's, then inputs, targets and mask.

    All of them have a leading dimension of clients, which stays, unless there is one client, which has none.

    Raises:
        UntraceableError: with the reason.
    """
    others = [_Opaque() for _ in range(form.others)]

    def step(*tensors: Tensor) -> list[Tensor]:
        carry = form.join(tensors[:-3], others)
        after, _ = work.step(carry, Batch(*tensors[-3:]))
        form_after, tensors_after, others_after = split(after)
        if form_after != form or any(a is not b for a, b in zip(others_after, others, strict=True)):
            raise UntraceableError("its step changes what its carry is made of")
        return tensors_after

    stacked = example[-1].ndim == 2
    try:
        with torch.no_grad():
            copies = [tensor.clone() for tensor in example]
            graph: fx.GraphModule = make_fx(vmap(step) if stacked else step)(*copies)
    except UntraceableError:
        raise
    except Exception as error:
        raise UntraceableError(f"its step cannot be traced ({first_line(error)})") from error
    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise UntraceableError(f"its step draws random numbers ({node.target})")
    convolves = any("convolution" in str(node.target) for node in graph.graph.nodes)
    return Traced(tidy(graph), convolves)


def first_line(error: Exception) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
