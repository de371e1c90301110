"""Names are shown and compared; what could become a path or a terminal trick is refused."""

from __future__ import annotations

import pytest

from foedus.domain.errors import ConfigError
from foedus.domain.names import check_name, check_tensor_name

REFUSED = [
    "",
    "a/b",
    "..",
    "../x",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b[31m",
    "a b",
    ".hidden",
    "-rf",
    "x" * 65,
    "ü",
    "a" * 10_000,
]


@pytest.mark.parametrize("name", REFUSED)
def test_a_dangerous_name_is_refused_and_shown_escaped(name: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_name(name, "client")
    assert refusal.value.code == "name_refused"
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("name", ["a", "c0000", "clinic-a", "site_1.north", "x" * 64])
def test_a_plain_name_is_kept(name: str) -> None:
    assert check_name(name, "client") == name


def test_tensor_names() -> None:
    assert all(map(check_tensor_name, ["0.weight", "encoder.layers.0.norm", "_orig_mod.w"]))
    assert not any(map(check_tensor_name, ["", "a/b", "..", "a\\b", "a\nb", "w" * 257]))
