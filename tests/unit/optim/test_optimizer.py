"""The optimizers: PyTorch's SGD to the bit, and Reddi et al.'s Algorithm 2 as the paper writes it."""

from __future__ import annotations

import math

import pytest
import torch

from foedus.domain.tree import clone
from foedus.optim.optimizer import Optimizer, ServerOptions, adam, clipped, server_optimizer, sgd


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01), (0.9, 0.01)])
def test_sgd_is_pytorchs(momentum: float, decay: float) -> None:
    torch.manual_seed(0)
    ours = {"w": torch.randn(7, 3)}
    theirs = torch.nn.Parameter(ours["w"].clone())
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, weight_decay=decay, foreach=False)
    optimizer = sgd(0.1, momentum, decay)
    moments = optimizer.init(ours)
    for _ in range(5):
        theirs.grad = torch.randn(7, 3)
        optimizer.update({"w": theirs.grad}, moments, ours)
        reference.step()
    torch.testing.assert_close(ours["w"], theirs.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_pytorchs(decay: float) -> None:
    torch.manual_seed(0)
    ours = {"w": torch.randn(7, 3)}
    theirs = torch.nn.Parameter(ours["w"].clone())
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay, foreach=False)
    optimizer = adam(0.1, (0.8, 0.95), 1e-6, decay)
    moments = optimizer.init(ours)
    assert set(moments) == set(optimizer.moments)
    for _ in range(5):
        theirs.grad = torch.randn(7, 3)
        optimizer.update({"w": theirs.grad}, moments, ours)
        reference.step()
    torch.testing.assert_close(ours["w"], theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [0.5, 100.0])
def test_clipping_is_pytorchs(norm: float) -> None:
    torch.manual_seed(0)
    gradients = {"a": torch.randn(7, 3), "b": torch.randn(5)}
    leaves = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients.values()]
    for leaf, gradient in zip(leaves, gradients.values(), strict=True):
        leaf.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(leaves, norm)
    for leaf, ours in zip(leaves, clipped(gradients, norm).values(), strict=True):
        torch.testing.assert_close(ours, leaf.grad)


@pytest.mark.parametrize("name", ["adagrad", "adam", "yogi"])
def test_the_adaptive_three_follow_algorithm_2(name: str) -> None:
    options = ServerOptions(optimizer=name, lr=0.1, beta1=0.9, beta2=0.99, tau=0.01)  # type: ignore[arg-type]
    optimizer = server_optimizer(options)
    parameters = {"x": torch.tensor([1.0], dtype=torch.float64)}
    moments = optimizer.init(parameters)
    x, m, v = 1.0, 0.0, 0.01**2
    for pseudo_gradient in (0.5, -0.2, 0.3, 0.0, -2.0):
        delta = -pseudo_gradient
        m = 0.9 * m + 0.1 * delta
        square = delta * delta
        if name == "adagrad":
            v = v + square
        elif name == "adam":
            v = 0.99 * v + 0.01 * square
        else:
            sign = (v - square > 0) - (v - square < 0)
            v = v - 0.01 * square * sign
        x = x + 0.1 * m / (math.sqrt(v) + 0.01)
        optimizer.update({"x": torch.tensor([pseudo_gradient], dtype=torch.float64)}, moments, parameters)
        assert parameters["x"].item() == pytest.approx(x, rel=1e-12)


ALL: list[Optimizer] = [
    sgd(0.1),
    sgd(0.1, 0.9, 0.01),
    *(server_optimizer(ServerOptions(optimizer=name)) for name in ("sgd", "adagrad", "adam", "yogi")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("optimizer", ALL)
def test_a_step_by_slices_gives_the_same_bits(optimizer: Optimizer) -> None:
    """Live, a model is stepped slice by slice, cut at multiples of a power of two; in simulation as a whole."""
    torch.manual_seed(0)
    start, limit = {"w": torch.randn(5000)}, 1024
    gradients = [torch.randn(5000) for _ in range(3)]
    whole = clone(start)
    moments = optimizer.init(whole)
    assert tuple(moments) == optimizer.moments
    cut = [{"w": start["w"][at : at + limit].clone()} for at in range(0, 5000, limit)]
    cut_moments = [optimizer.init(piece) for piece in cut]
    for gradient in gradients:
        optimizer.update({"w": gradient}, moments, whole)
        for number, piece in enumerate(cut):
            at = number * limit
            optimizer.update({"w": gradient[at : at + limit].clone()}, cut_moments[number], piece)
    assert torch.equal(torch.cat([piece["w"] for piece in cut]), whole["w"])
