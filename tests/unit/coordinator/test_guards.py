"""What stands between strangers and the use cases."""

from __future__ import annotations

import time

import pytest

from foedus.coordinator.guards import Guards
from foedus.wire.nonces import Nonces
from foedus.wire.signing import SKEW


def test_case_19_a_clock_that_was_ahead_at_start_up_does_not_lock_the_nodes_out_for_long() -> None:
    an_hour_ahead, now = time.time() + 3600, time.monotonic()
    assert Guards(Nonces(), an_hour_ahead, made_at=now).since == an_hour_ahead
    # A request from before the start is refused by its own time now.
    assert Guards(Nonces(), an_hour_ahead, made_at=now - 2 * SKEW).since == 0.0


@pytest.mark.parametrize("age", [0.0, SKEW])
def test_what_an_earlier_process_may_have_accepted_is_refused_while_it_could_be_in_time(age: float) -> None:
    began = time.time() - age
    assert Guards(Nonces(), began, made_at=time.monotonic() - age).since == began
