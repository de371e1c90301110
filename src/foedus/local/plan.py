"""A training plan that was imported: model, loss, metrics and data preparation, each checked for what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from foedus.data.dataset import Prepare
from foedus.domain.errors import PlanError
from foedus.domain.names import check_tensor_name
from foedus.domain.plan import ModelManifest, ModelTensor
from foedus.domain.rng import derive, seed_all
from foedus.domain.tree import names_of_dtypes

Loss = Callable[[Any, Any], Tensor]
Score = Callable[[dict[str, float]], float]


@dataclass(frozen=True)
class TrainingPlan:
    """``loss(output, target)`` is a scalar; each metric is a mean over the batch; ``prepare`` makes inputs and targets.

    Each of these is one tensor or several by name: inputs by name are the model's keyword arguments, targets a dict.
    ``directions`` says for each metric whether ``max`` or ``min`` is better (of the loss less always is). ``scores``
    are functions of the loss and the metrics, by which models may be kept; ``declared`` is what the plan itself says of
    the directions of metrics and scores.
    """

    model: Callable[[], nn.Module]
    loss: Loss
    metrics: Mapping[str, Loss]
    directions: Mapping[str, str]
    prepare: Prepare
    scores: Mapping[str, Score] = field(default_factory=dict)
    declared: Mapping[str, str] = field(default_factory=dict)


def build_model(plan: TrainingPlan, seed: int) -> nn.Module:
    """The plan's model with the initial parameters that ``seed`` gives.

    Raises:
        PlanError: ``plan_model_failed`` or ``plan_model_refused``.
    """
    seed_all(derive(seed, 0, "", "parameters"))
    try:
        model = plan.model()
    except Exception as error:
        raise PlanError(
            "plan_model_failed", "The plan's model() failed.", f"{type(error).__name__}: {error}", "Mend model()."
        ) from error
    if not isinstance(model, nn.Module):
        raise PlanError(
            "plan_model_refused",
            f"The plan's model() returned a {type(model).__name__}.",
            "It has to return a torch.nn.Module.",
            "Return the network itself.",
        )
    tensors = tensors_of(model)
    for name, tensor in tensors.items():
        if not check_tensor_name(name) or tensor.dtype not in names_of_dtypes:
            raise PlanError(
                "plan_model_refused",
                f"The model's tensor {name!r:.80} has a name or dtype not allowed.",
                f"Its dtype is {tensor.dtype}; real numbers, integers and booleans are stored.",
                "Change the tensor's dtype, or the name of its module.",
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise PlanError(
            "plan_model_refused",
            "The model has no parameter to train.",
            "Every parameter is frozen, or there is none.",
            "Let `requires_grad` of some be true.",
        )
    return model


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, as they are; tied parameters stand once."""
    persistent = model.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *buffers.items()]}


def manifest_of(plan: TrainingPlan, model: nn.Module) -> ModelManifest:
    """What the rest of foedus needs to know of the model, without running it."""
    parameters = dict(model.named_parameters())
    modules = {name: type(module).__name__ for name, module in model.named_modules()}

    def row(name: str, tensor: Tensor) -> ModelTensor:
        kind = "buffer" if name not in parameters else "parameter" if parameters[name].requires_grad else "frozen"
        module = modules[name.rpartition(".")[0]]
        return ModelTensor(name, tuple(tensor.shape), names_of_dtypes[tensor.dtype], kind, module)

    tensors = tuple(row(name, tensor) for name, tensor in tensors_of(model).items())
    return ModelManifest(tensors, {"loss": "min", **plan.directions})
