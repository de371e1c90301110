"""Batches are a permutation by seed, client and epoch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.data.batching import batches


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3))
def test_batches_are_a_permutation_cut_in_order(n: int, size: int, epoch: int) -> None:
    cut = list(batches(n, size, 1, "c", epoch))
    assert sorted(torch.cat(cut).tolist()) == list(range(n))
    assert [len(batch) for batch in cut[:-1]] == [size] * (len(cut) - 1)
    assert torch.equal(torch.cat(cut), torch.cat(list(batches(n, size, 1, "c", epoch))))


def test_epochs_and_clients_have_orders_of_their_own() -> None:
    orders = {tuple(torch.cat(list(batches(30, 7, 1, c, e))).tolist()) for c in "ab" for e in (0, 1)}
    assert len(orders) == 4
