"""``foedus data partition``: the files are the parts that a simulation uses."""

from __future__ import annotations

from pathlib import Path

import torch

from foedus.data.catalogue import federate
from foedus.data.files import read_columns
from foedus.engine.prepare import read_spec


def test_the_files_are_the_simulation_s_parts(run, here: Path, digits: Path) -> None:
    ran = run("data", "partition", digits / "run.toml", "--out", "parts", "--json")
    assert ran.code == 0
    federation = federate(read_spec(digits / "run.toml", {}), digits)
    assert sorted(path.stem for path in (here / "parts").iterdir()) == [*sorted(federation.clients), "held_out"]
    for name in (*federation.clients, "held_out"):
        expected = federation.held_out if name == "held_out" else federation.clients[name]
        assert expected is not None
        written = read_columns(here / "parts" / f"{name}.npz")
        assert written.keys() == expected.keys()
        assert all(torch.equal(written[column], expected[column]) for column in expected)
        assert ran.envelope["data"]["files"][name]["examples"] == len(expected["label"])


def test_without_a_held_out_part_there_is_no_such_file(run, here: Path, digits: Path) -> None:
    (here / "run.toml").write_text((digits / "run.toml").read_text().replace("held_out = 0.2", ""))
    assert run("data", "partition", "run.toml", "--out", "parts").code == 0
    assert not (here / "parts" / "held_out.npz").exists()
