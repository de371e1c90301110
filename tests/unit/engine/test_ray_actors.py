"""What an actor's machine must have in common with the driver's. No Ray is started here."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from foedus.domain.errors import ConfigError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'foedus[ray]'")

from foedus.engine.ray_actor import Site
from foedus.engine.ray_actors import check_site

HERE = Site("here", 1, "1.0", "2.13", "AVX2")


@pytest.mark.parametrize("change", [{"foedus": "1.1"}, {"torch": "2.12"}])
def test_other_versions_are_refused_with_both_named(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        check_site(HERE, replace(HERE, machine="there", **change))
    assert raised.value.code == "ray_versions_differ"
    assert "there" in raised.value.what
    assert next(iter(change.values())) in raised.value.what


def test_another_kind_of_processor_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_site(HERE, replace(HERE, process=2))
        assert not caplog.records
        check_site(HERE, replace(HERE, machine="there", processor="AVX512"))
    assert [("there" in record.message, "AVX512" in record.message) for record in caplog.records] == [(True, True)]
