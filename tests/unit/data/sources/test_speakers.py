"""A play's roles are clients, and their text is cut into windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foedus.data.catalogue import load
from foedus.data.population import Federation
from foedus.domain.errors import DataError
from foedus.domain.run import DataTable

PLAY = """\
First Citizen:
Before we proceed, hear me.

All:
Speak, speak.

First Citizen:
You are all resolved?

MENENIUS:
No.
"""


def _load(folder: Path, **keys: object) -> Federation:
    found = load(DataTable.model_validate({"name": "shakespeare", "folder": str(folder), **keys}))
    assert isinstance(found, Federation)
    return found


def _said(federation: Federation, name: str) -> str:
    alphabet = sorted(set(PLAY))
    windows = federation.clients[name]["text"]
    return "".join(alphabet[code] for code in [int(windows[0, 0]), *windows[:, 1:].flatten().tolist()])


def test_roles_are_clients_and_each_character_is_predicted_once(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(PLAY)
    found = _load(tmp_path, options={"length": 6})
    assert tuple(found.names) == ("All", "First-Citizen")
    assert found.clients["First-Citizen"]["text"].shape == (8, 7)
    assert found.clients["First-Citizen"]["text"].dtype == torch.uint8
    assert _said(found, "First-Citizen") == "Before we proceed, hear me.\nYou are all resolved?\n"[:49]
    assert _said(found, "All") == "Speak, speak.\n"[:13]


def test_the_end_of_each_role_is_the_test_part(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(PLAY)
    found = _load(tmp_path, options={"length": 6, "test": 0.5}, held_out="test")
    whole = _load(tmp_path, options={"length": 6})
    assert found.held_out is not None
    parts = [found.clients[name]["text"] for name in found.names]
    assert [len(part) for part in parts] == [1, 4]
    ends = [whole.clients[name]["text"][len(part) :] for name, part in zip(found.names, parts, strict=True)]
    assert torch.equal(found.held_out["text"], torch.cat(ends))


def test_the_play_itself(data_folder: Path) -> None:
    found = _load(data_folder / "tinyshakespeare")
    assert len(found.names) > 200
    assert {"ROMEO", "First-Citizen"} <= set(found.names)
    assert max(int(columns["text"].max()) for columns in found.clients.values()) == 64


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "dataset_missing"),
        (b"\xff\xfe\xff", "dataset_unreadable"),
        (b"nobody speaks", "dataset_unreadable"),
        ("".join(map(chr, range(32, 400))).encode(), "dataset_unreadable"),
    ],
)
def test_what_is_no_play_is_refused(content: bytes | None, code: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "input.txt").write_bytes(content)
    with pytest.raises(DataError) as refusal:
        _load(tmp_path)
    assert refusal.value.code == code


def test_an_absent_folder_says_which_file_goes_there() -> None:
    with pytest.raises(DataError, match=r"input\.txt.*tinyshakespeare"):
        load(DataTable(name="shakespeare"))
