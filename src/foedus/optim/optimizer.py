"""Optimizers as pairs of functions: ``init`` makes the moments, ``update`` writes one step into tensors it is given.

A client steps along gradients; the server steps along the aggregate of updates ``start - end``, a pseudo-gradient.
Every optimizer here acts on each element alone, so a model may be stepped slice by slice with the same bits.

Sources: Sutskever et al., On the importance of initialization and momentum (ICML 2013), in PyTorch's form;
Reddi et al., Adaptive Federated Optimization (ICLR 2021, https://arxiv.org/abs/2003.00295), Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from foedus.domain.table import Decay, Rate, Table
from foedus.domain.tree import Parts, Tensors


class Update(Protocol):
    """One step, written into the parameters and the moments."""

    def __call__(self, gradients: Tensors, moments: Parts, parameters: Tensors, rate: Tensor | None = None) -> None:
        """Take it."""


@dataclass(frozen=True)
class Optimizer:
    """``moments`` names what is remembered; ``update(gradients, moments, parameters, rate)`` writes in place.

    ``rate`` (``[]``) stands in for the learning rate in this one step, where a schedule says it; none is usual.
    """

    init: Callable[[Tensors], Parts]
    update: Update
    moments: tuple[str, ...]


class ServerOptions(Table):
    """The server's step. ``beta1``, ``beta2`` and ``tau`` are Reddi et al.'s, for the adaptive three."""

    optimizer: Literal["sgd", "adagrad", "adam", "yogi"] = "sgd"
    lr: Rate = 1.0
    momentum: Decay = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: Rate = 1e-3


def sgd(lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> Optimizer:
    """``b = momentum * b + g + weight_decay * p``, then ``p = p - lr * b`` (PyTorch's SGD without dampening).

    >>> step = sgd(0.5)
    >>> parameters = {"w": torch.ones(2)}
    >>> step.update({"w": torch.ones(2)}, step.init(parameters), parameters)
    >>> parameters
    {'w': tensor([0.5000, 0.5000])}
    """

    def init(parameters: Tensors) -> Parts:
        return {"momentum": _filled(parameters, 0.0)} if momentum else {}

    def update(gradients: Tensors, moments: Parts, parameters: Tensors, rate: Tensor | None = None) -> None:
        for name, gradient in gradients.items():
            parameter = parameters[name]
            step = gradient.add(parameter, alpha=weight_decay) if weight_decay else gradient
            if momentum:
                step = moments["momentum"][name].mul_(momentum).add_(step)
            _descend(parameter, step, lr, rate)

    return Optimizer(init, update, ("momentum",) if momentum else ())


def adam(lr: float, betas: tuple[float, float], epsilon: float, weight_decay: float = 0.0) -> Optimizer:
    """Adam with decoupled weight decay, in PyTorch's form (``torch.optim.AdamW``).

    Kingma and Ba, Adam: A Method for Stochastic Optimization (ICLR 2015, https://arxiv.org/abs/1412.6980), Algorithm 1;
    Loshchilov and Hutter, Decoupled Weight Decay Regularization (ICLR 2019, https://arxiv.org/abs/1711.05101). ``t``,
    the number of steps taken, is kept for each tensor.
    """
    beta1, beta2 = betas

    def init(parameters: Tensors) -> Parts:
        steps = {name: torch.zeros((), dtype=tensor.dtype) for name, tensor in parameters.items()}
        return {"first_moment": _filled(parameters, 0.0), "second_moment": _filled(parameters, 0.0), "steps": steps}

    def update(gradients: Tensors, moments: Parts, parameters: Tensors, rate: Tensor | None = None) -> None:
        for name, gradient in gradients.items():
            first, second = moments["first_moment"][name], moments["second_moment"][name]
            t = moments["steps"][name].add_(1)
            first.mul_(beta1).add_(gradient, alpha=1 - beta1)
            second.mul_(beta2).add_(gradient.square(), alpha=1 - beta2)
            root = (second / (1 - beta2**t)).sqrt() + epsilon
            if weight_decay:
                parameters[name].mul_(1 - (lr if rate is None else rate) * weight_decay)
            _descend(parameters[name], first / (1 - beta1**t) / root, lr, rate)

    return Optimizer(init, update, ("first_moment", "second_moment", "steps"))


def clipped(gradients: Tensors, norm: float) -> dict[str, Tensor]:
    """Gradients scaled to have at most this Euclidean norm, all tensors together (Pascanu et al., ICML 2013, Alg. 1).

    >>> clipped({"w": torch.tensor([3.0, 4.0])}, 1.0)
    {'w': tensor([0.6000, 0.8000])}
    """
    squares = [gradient.square().sum() for gradient in gradients.values()]
    scale = (norm / (torch.stack(squares).sum().sqrt() + 1e-6)).clamp(max=1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}


def adaptive(options: ServerOptions) -> Optimizer:
    """FedAdagrad, FedAdam or FedYogi: ``m``, ``v`` and ``x`` as in Algorithm 2, with ``v`` beginning at ``tau**2``."""
    beta1, beta2, tau = options.beta1, options.beta2, options.tau
    accumulate = _SECOND_MOMENTS[options.optimizer]

    def init(parameters: Tensors) -> Parts:
        return {"first_moment": _filled(parameters, 0.0), "second_moment": _filled(parameters, tau * tau)}

    def update(gradients: Tensors, moments: Parts, parameters: Tensors, rate: Tensor | None = None) -> None:
        for name, gradient in gradients.items():
            first, second = moments["first_moment"][name], moments["second_moment"][name]
            first.mul_(beta1).add_(gradient, alpha=1 - beta1)
            accumulate(second, gradient.square(), beta2)
            _descend(parameters[name], first / (second.sqrt() + tau), options.lr, rate)

    return Optimizer(init, update, ("first_moment", "second_moment"))


def server_optimizer(options: ServerOptions) -> Optimizer:
    """The optimizer that validated options name."""
    return sgd(options.lr, options.momentum) if options.optimizer == "sgd" else adaptive(options)


def _adagrad(second: Tensor, square: Tensor, beta2: float) -> None:
    second.add_(square)


def _adam(second: Tensor, square: Tensor, beta2: float) -> None:
    second.mul_(beta2).add_(square, alpha=1 - beta2)


def _yogi(second: Tensor, square: Tensor, beta2: float) -> None:
    second.sub_(square * torch.sign(second - square), alpha=1 - beta2)


_SECOND_MOMENTS: Mapping[str, Callable[[Tensor, Tensor, float], None]] = {
    "adagrad": _adagrad,
    "adam": _adam,
    "yogi": _yogi,
}


def _descend(parameter: Tensor, step: Tensor, lr: float, rate: Tensor | None) -> None:
    if rate is None:
        parameter.sub_(step, alpha=lr)
    else:
        parameter.sub_(step * rate)


def _filled(parameters: Tensors, value: float) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in parameters.items()}
