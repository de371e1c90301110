"""A nonce is used once, memory is bounded, and one key's flood is its own affair."""

from __future__ import annotations

from foedus.wire.nonces import Nonces


def test_a_nonce_is_used_once_per_key() -> None:
    nonces = Nonces()
    assert nonces.use("n_1", "a", 100, 100.0)
    assert not nonces.use("n_1", "a", 100, 101.0)
    assert nonces.use("n_2", "a", 100, 101.0)


def test_a_nonce_is_remembered_as_long_as_it_could_be_replayed() -> None:
    nonces = Nonces(keep=120)
    assert nonces.use("n_1", "a", 160, 100.0)
    assert not nonces.use("n_1", "a", 160, 220.0)


def test_old_nonces_are_forgotten() -> None:
    nonces = Nonces(keep=120)
    for at in range(1000):
        nonces.use(f"n_{at % 7}", str(at), at, float(at))
    assert len(nonces) <= 120 + 30 + 1


def test_over_the_limit_the_oldest_goes_and_cannot_come_back() -> None:
    nonces = Nonces(limit=2)
    assert nonces.use("n_1", "a", 100, 100.0)
    assert nonces.use("n_1", "b", 101, 101.0)
    assert nonces.use("n_1", "c", 102, 102.0)
    assert len(nonces) == 2
    assert not nonces.use("n_1", "a", 100, 103.0)
    assert nonces.use("n_2", "a", 100, 103.0)
