"""chain() is composition: in order on the way up, in reverse on the way back, with identity as its unit."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain.tree import Parts, State
from foedus.transforms.transform import IDENTITY, Transform, chain


def _affine(scale: float, shift: float) -> Transform:
    def apply(parts: Parts, factor: float, offset: float) -> Parts:
        return {part: {n: t * factor + offset for n, t in tensors.items()} for part, tensors in parts.items()}

    def client(state: State, update: Parts, _: torch.Generator) -> tuple[Parts, State]:
        return apply(update, scale, shift), State({}, {"calls": int(str(state.data.get("calls", 0))) + 1})

    def server(state: State, aggregate: Parts) -> tuple[Parts, State]:
        return apply(aggregate, 1 / scale, -shift / scale), State(
            {}, {"calls": int(str(state.data.get("calls", 0))) + 1}
        )

    return Transform(client, lambda update: apply(update, 1 / scale, -shift / scale), server)


def _run(transform: Transform, value: float) -> tuple[float, float, float, object]:
    update: Parts = {"p": {"w": torch.tensor(value, dtype=torch.float64)}}
    sent, state = transform.client(State(), update, torch.Generator())
    back, _ = transform.server(State(), sent)
    return (
        sent["p"]["w"].item(),
        transform.decode(sent)["p"]["w"].item(),
        back["p"]["w"].item(),
        state.data.get("calls", 0),
    )


numbers = st.integers(-8, 8).map(float)
transforms = st.builds(_affine, st.sampled_from([0.5, 2.0, 4.0]), numbers)


@given(transforms, transforms, transforms, numbers)
def test_chain_is_associative(a: Transform, b: Transform, c: Transform, value: float) -> None:
    assert _run(chain(a, chain(b, c)), value) == _run(chain(chain(a, b), c), value) == _run(chain(a, b, c), value)


@given(transforms, numbers)
def test_identity_is_the_unit(a: Transform, value: float) -> None:
    assert _run(chain(a, IDENTITY), value) == _run(chain(IDENTITY, a), value) == _run(a, value)
    assert _run(chain(), value) == _run(IDENTITY, value)


@given(transforms, transforms, numbers)
def test_the_way_back_undoes_the_way_up(a: Transform, b: Transform, value: float) -> None:
    _, decoded, back, calls = _run(chain(a, b), value)
    assert decoded == value
    assert back == value
    assert calls == 2


def test_the_client_halves_run_in_order() -> None:
    assert _run(chain(_affine(2.0, 0.0), _affine(1.0, 3.0)), 5.0)[0] == 13.0
