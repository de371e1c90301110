"""A client's local work as graphs of tensor operations: the step, and what it comes to, each over a stack of clients.

The strategy's own ``step`` and ``finish`` are traced (``make_fx``, over clients by ``vmap``), so no strategy and no
layer is known here. A step has one of two forms. *Padded*: short batches are filled up with rows of weight 0, which is
legal where the loss of a batch is the mean of its rows' losses and rows do not mix. *Whole*: batches as they are, for
any loss and any layer; what a layer draws at random is drawn outside, from each client's own generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from foedus.data.dataset import Values
from foedus.domain.round import Broadcast
from foedus.domain.tree import Tensors
from foedus.engine.draws import Draw, take_out_draws
from foedus.engine.factored import factor, factorable, inputs_of
from foedus.engine.form import Form, UntraceableError, split
from foedus.engine.programs import compiled, turn, turnable
from foedus.engine.recipe import Recipe
from foedus.engine.tidy import VIEWS, aten, erase_dead, readers, root, tidy, writes
from foedus.local.objective import EagerObjective
from foedus.local.plan import TrainingPlan, build_model
from foedus.local.work import AT_ONCE, Batch, LocalWork, output_of


class FunctionalObjective:
    """The plan's objective as a function of its tensors alone.

    ``direct``: differentiate by autograd at once, one client at a time, instead of by a transform that can be traced.
    """

    at_once = AT_ONCE

    def __init__(self, plan: TrainingPlan, seed: int, device: str = "cpu") -> None:
        self._module = build_model(plan, seed).to(device).train()
        self._loss = plan.loss
        self._eager = EagerObjective(plan, seed, device)
        self.trainable = self._eager.trainable
        self.buffers = self._eager.buffers
        self.direct = False

    def place(self, model: Tensors) -> dict[str, Tensor]:
        """The model as it is: whoever steps copies it first."""
        return dict(model)

    def gradient(self, model: Tensors, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients and loss over the rows that ``mask`` counts."""
        return self._directly(model, batch) if self.direct else self._by_transform(model, batch)

    def measure(self, model: Tensors, batch: Batch) -> dict[str, Tensor]:
        """As kernel ``eager`` measures."""
        return self._eager.measure(self._eager.place(model), batch)

    def _by_transform(self, model: Tensors, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        def value(trainable: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
            buffers = {name: model[name].clone() for name in self.buffers}
            output = self._output({**model, **buffers, **trainable}, batch)
            if batch.mask is None:
                return self._scalar(output, batch.targets, "a batch"), buffers
            rows: Tensor = vmap(self._row)(output, batch.targets)
            return (rows * batch.mask).sum() / batch.mask.sum().clamp(min=1), buffers

        gradients, (loss, buffers) = grad_and_value(value, has_aux=True)({name: model[name] for name in self.trainable})
        for name, buffer in buffers.items():
            model[name].copy_(buffer)
        return gradients, loss

    def _directly(self, model: Tensors, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        leaves = {name: model[name].detach().requires_grad_() for name in self.trainable}
        with torch.enable_grad():
            output = self._output({**model, **leaves}, batch)
            loss = self._loss(output, batch.targets)
            found = torch.autograd.grad(loss, tuple(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True)), loss.detach()

    def _output(self, model: Tensors, batch: Batch) -> Any:
        return output_of(lambda *args, **named: functional_call(self._module, dict(model), args, named), batch.inputs)

    def _row(self, output: Any, target: Values) -> Tensor:
        one, its = pytree.tree_map(lambda tensor: tensor[None], (output, target))
        return self._scalar(one, its, "one row")

    def _scalar(self, output: Any, target: Values, what: str) -> Tensor:
        loss: object = self._loss(output, target)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            raise UntraceableError(f"its loss is not one number for {what}")
        return loss


Program = Callable[..., Any]


@dataclass(frozen=True)
class Shape:
    """What a graph is traced for: clients stacked, save what is ``shared`` of the carry, or one; the ``recipe``.

    ``batch`` is what a batch is made of, its mask last if padded.
    """

    batch: Form
    stacked: bool
    shared: frozenset[int]
    recipe: Recipe


@dataclass(frozen=True)
class Step:
    """A step as a program: ``(*carry, *batch, *draws) → carry``, which may write to the first.

    ``draws`` says what to draw for each client, in this order. ``kept`` are the places in the carry that a step leaves
    as they are, ``rebound`` those that it returns in new memory, ``returned`` where among its results. ``factorable``:
    the weights that could be kept as factors, and the number that their steps are multiplied with; ``inputs`` those of
    them that multiply a column of the batch. ``convolves``: there is a convolution in it. ``turnable``: the
    multiply-adds of the largest product that may be turned (:func:`foedus.engine.programs.turn`).
    """

    run: Program
    draws: tuple[Draw, ...]
    kept: frozenset[int]
    rebound: tuple[int, ...]
    returned: tuple[int, ...]
    factorable: Mapping[int, float]
    inputs: Mapping[int, int]
    convolves: bool
    turnable: int


def trace_step(work: LocalWork, form: Form, shape: Shape, example: Sequence[Tensor]) -> Step:
    """The step of ``work`` over the tensors of ``example``: the carry's, then the batch's.

    If stacked, all have a leading dimension of clients but those that ``shape`` shares.

    Raises:
        UntraceableError: with the reason.
    """
    carried = len(example) - shape.batch.size

    def step(*tensors: Tensor) -> list[Tensor]:
        after, _ = work.step(form.join(tensors[:carried]), Batch(**shape.batch.join(tensors[carried:])))
        form_after, tensors_after = split(after)
        if form_after != form:
            raise UntraceableError("its step changes what its carry is made of")
        return [tensor for at, tensor in enumerate(tensors_after) if at not in shape.shared]

    if shape.stacked:
        clients = len(example[-1])
        example = [t.expand(clients, *t.shape) if at in shape.recipe.factored else t for at, t in enumerate(example)]
    dims = tuple(None if at in shape.shared else 0 for at in range(len(example)))
    graph = _graph(vmap(step, in_dims=dims, randomness="different") if shape.stacked else step, example)
    try:
        draws = take_out_draws(graph, shape.stacked)
    except ValueError as error:
        raise UntraceableError(str(error)) from error
    convolves = any("convolution" in str(node.target) for node in graph.graph.nodes)
    tidy(graph)
    found = {} if shape.shared else factorable(graph.graph, carried)
    inputs = inputs_of(graph.graph, carried, found)
    returned = _returned(graph, [at for at in range(carried) if at not in shape.shared])
    turns = turnable(graph.graph, carried)
    try:
        factor(graph.graph, carried, shape.recipe)
    except ValueError as error:
        raise UntraceableError(str(error)) from error
    if 0 < shape.recipe.turned <= turnable(graph.graph, carried):
        turn(graph.graph, carried)
    kept = frozenset(at for at, how in returned.items() if how == "kept")
    rebound = tuple(at for at, how in returned.items() if how == "rebound")
    places = tuple(list(returned).index(at) for at in rebound)
    return Step(compiled(graph, shape.recipe), draws, kept, rebound, places, found, inputs, convolves, turns)


@dataclass(frozen=True)
class Finish:
    """What stacks come to, as a program: ``(*broadcast's tensors, *carry) → (update, metrics, state)``, stacked.

    ``differences`` are the tensors of the update, by part and name, that are the broadcast less a factored weight, by
    the weight's place in the carry; the program leaves them out.
    """

    run: Program
    differences: Mapping[tuple[str, str], int]


def trace_finish(work: LocalWork, form: Form, shape: Shape, broadcast: Broadcast, carry: Sequence[Tensor]) -> Finish:
    """The strategy's ``finish`` over a stack's carries; what is shared or factored has no dimension of clients.

    Raises:
        UntraceableError: with the reason.
    """
    leaves, spec = pytree.tree_flatten(broadcast.tensors)

    def finish(*tensors: Tensor) -> Any:
        down = Broadcast(pytree.tree_unflatten(list(tensors[: len(leaves)]), spec), broadcast.options)
        finished = work.finish(down, form.join(tensors[len(leaves) :]))
        return finished.update, finished.metrics, finished.state

    alike = {*shape.shared, *shape.recipe.factored}
    in_dims = (*(None for _ in leaves), *(None if at in alike else 0 for at in range(len(carry))))
    graph = _graph(vmap(finish, in_dims=in_dims), [*leaves, *carry])
    tidy(graph)
    begun = {at: next((n for n, leaf in enumerate(leaves) if leaf is carry[at]), -1) for at in shape.recipe.factored}
    differences = _take_out_differences(graph, begun, len(leaves))
    return Finish(compiled(graph, shape.recipe), differences)


def _take_out_differences(graph: fx.GraphModule, begun: Mapping[int, int], leaves: int) -> dict[tuple[str, str], int]:
    """Leave out ``start - weight``; the weights' places are the keys of ``begun``, their start's its values."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.graph.nodes if node.op == "output")
    update, *rest = output.args[0]
    found, kept = {}, {part: dict(tensors) for part, tensors in update.items()}
    for part, tensors in update.items():
        for name, node in tensors.items():
            while node.op == "call_function" and node.target in VIEWS:
                node = node.args[0]
            for at, start in begun.items():
                if node.target is aten.sub.Tensor and node.args == (placeholders[start], placeholders[leaves + at]):
                    found[part, name] = at
                    kept[part][name] = None
    output.args = ((kept, *rest),)
    erase_dead(graph.graph)
    if any(placeholders[leaves + at].users for at in begun):
        raise UntraceableError("what a weight came to is needed for more than the update")
    return found


def _graph(function: Callable[..., Any], example: Sequence[Tensor]) -> fx.GraphModule:
    try:
        # attention as products and a softmax: the fused kernel has no rule for stacks, and passes for a draw
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # an operation without a rule for stacks is looped over; whether stacks pay is timed
            warnings.filterwarnings("ignore", "There is a performance drop")
            graph: fx.GraphModule = make_fx(function)(
                *(tensor.clone(memory_format=torch.contiguous_format) for tensor in example)
            )
    except UntraceableError:
        raise
    except Exception as error:
        raise UntraceableError(f"it cannot be traced ({first_line(error)})") from error
    return graph


def _returned(graph: fx.GraphModule, places: Sequence[int]) -> dict[int, str]:
    """How each place of the carry comes back: ``kept`` as it was, ``written`` in its own memory, or ``rebound``."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.graph.nodes if node.op == "output")
    found = {}
    for at, node in zip(places, output.args[0], strict=True):
        if node is placeholders[at] and not any(_writes_to(user, node) for user in readers(node)):
            found[at] = "kept"
        else:
            found[at] = "written" if root(node) is placeholders[at] else "rebound"
    return found


def _writes_to(user: fx.Node, node: fx.Node) -> bool:
    return writes(user) and root(user) is node


def first_line(error: Exception) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
