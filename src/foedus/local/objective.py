"""The objective of kernel ``eager``: the user's module itself, its parameters stepped in place. The lean truth.

No optimizer, state dict or copy of the module per client: the broadcast is copied into the one module of the process,
``torch.autograd.grad`` differentiates the loss, and the step writes into the module's parameters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foedus.data.dataset import Values
from foedus.domain.errors import ClientWorkError, FoedusError, PlanError
from foedus.domain.tree import Tensors
from foedus.local.plan import Loss, TrainingPlan, build_model, tensors_of
from foedus.local.work import AT_ONCE, Batch, output_of

log = logging.getLogger(__name__)


class EagerObjective:
    """One module on a device, one client at a time."""

    at_once = AT_ONCE

    def __init__(self, plan: TrainingPlan, seed: int, device: str = "cpu") -> None:
        self._module = build_model(plan, seed).to(device)
        self._loss = plan.loss
        self._measures: Mapping[str, Loss] = {"loss": plan.loss, **plan.metrics}
        self._tensors = tensors_of(self._module)
        parameters = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        self._leaves = tuple(parameters.values())
        self.trainable = tuple(parameters)
        frozen = {name for name, p in self._module.named_parameters() if not p.requires_grad}
        self.buffers = tuple(name for name in self._tensors if name not in parameters and name not in frozen)

    def place(self, model: Tensors) -> dict[str, Tensor]:
        """Copy the model into the module; what is returned shares its memory."""
        for name, tensor in self._tensors.items():
            tensor.copy_(model[name])
        return self._tensors

    def gradient(self, model: Tensors, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Differentiate the plan's loss on one batch."""
        if not self._module.training:
            self._module.train()
        loss = _scalar(self._loss(output_of(self._module, batch.inputs), batch.targets), "loss")
        if not loss.requires_grad:
            raise PlanError(
                "plan_loss_constant",
                "The plan's loss does not depend on the model's parameters.",
                "There is nothing to differentiate.",
                "Compute it from `output`, without detach() or item().",
            )
        gradients = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        found = zip(self.trainable, self._leaves, gradients, strict=True)
        return {name: torch.zeros_like(leaf) if g is None else g for name, leaf, g in found}, loss.detach()

    def measure(self, model: Tensors, batch: Batch) -> dict[str, Tensor]:
        """Loss and metrics on one batch, without gradients; one that fails is logged, and not among them."""
        self._module.eval()
        with torch.no_grad():
            output = output_of(self._module, batch.inputs)
            found = {name: self._measured(name, output, batch.targets) for name in self._measures}
            return {name: value for name, value in found.items() if value is not None}

    def _measured(self, name: str, output: Any, targets: Values) -> Tensor | None:
        try:
            return _scalar(self._measures[name](output, targets), name)
        except (FoedusError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            log.warning("the plan's %s failed: %s: %s", name, type(error).__name__, error)
            return None


def _scalar(value: object, name: str) -> Tensor:
    if isinstance(value, (int, float)):
        value = torch.tensor(float(value))
    if not isinstance(value, Tensor):
        raise PlanError(
            "plan_loss_shape",
            f"The plan's {name} returned a {type(value).__name__}, not a tensor.",
            "Loss and metrics are one floating-point number for a batch.",
            "Return a tensor without dimensions.",
        )
    if value.ndim != 0 or not value.dtype.is_floating_point:
        raise PlanError(
            "plan_loss_shape",
            f"The plan's {name} has shape {list(value.shape)} and dtype {value.dtype}.",
            "Loss and metrics are one floating-point number for a batch.",
            "Take the mean over the batch.",
        )
    return value


def check_finite(tensors: Tensors, client: str) -> None:
    """Refuse an update with NaN or infinity before it leaves the client.

    Raises:
        ClientWorkError: ``update_not_finite``.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and not _is_finite(tensor):
            raise ClientWorkError(
                "update_not_finite",
                f"Training on {client} diverged: {name} has NaN or infinity.",
                "",
                "Lower the local learning rate.",
            )


def _is_finite(tensor: Tensor) -> bool:
    """One pass that makes no second tensor: NaN and infinity stay in a sum; a finite sum has neither."""
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())
