"""A transform in three parts: a client half, a decoding of each contribution where it must be, and a server half.

``chain`` composes transforms: the client halves in order, the decodings and the server halves in reverse (after
optax' ``chain``, and pfl-research's two-halved postprocessors).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from foedus.domain.rng import Randomness
from foedus.domain.tree import Parts, State

ClientHalf = Callable[[State, Parts, Randomness], tuple[Parts, State]]


@dataclass(frozen=True)
class Transform:
    """``client(state, update, rng) → (update, state)``; ``decode(update)``; ``server(state, aggregate)``, likewise."""

    client: ClientHalf
    decode: Callable[[Parts], Parts]
    server: Callable[[State, Parts], tuple[Parts, State]]


IDENTITY = Transform(lambda state, update, _: (update, state), lambda update: update, lambda state, tree: (tree, state))
"""The transform that changes nothing. A kernel may fold many clients' updates at once under it."""


def chain(*transforms: Transform) -> Transform:
    """One transform that does what all of them do, in order on the way up and in reverse on the way back."""

    def client(state: State, update: Parts, rng: Randomness) -> tuple[Parts, State]:
        for transform in transforms:
            update, state = transform.client(state, update, rng)
        return update, state

    def decode(update: Parts) -> Parts:
        for transform in reversed(transforms):
            update = transform.decode(update)
        return update

    def server(state: State, aggregate: Parts) -> tuple[Parts, State]:
        for transform in reversed(transforms):
            aggregate, state = transform.server(state, aggregate)
        return aggregate, state

    return Transform(client, decode, server)
