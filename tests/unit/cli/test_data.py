"""``foedus data partition``: the files are the parts that a simulation uses."""

from __future__ import annotations

from pathlib import Path

import pytest
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


def test_what_each_client_gets_is_shown_and_drawn(run, here: Path, digits: Path) -> None:
    ran = run("data", "partition", digits / "run.toml", "--plot", "--json")
    assert ran.code == 0
    assert (here / "partition.png").read_bytes().startswith(b"\x89PNG")
    found = ran.envelope["data"]
    assert (found["population"], found["held_out"]["examples"], found["plot"]) == (4, 359, "partition.png")
    assert all(sum(one["labels"].values()) == one["examples"] for one in found["clients"].values())
    assert sum(one["examples"] for one in found["clients"].values()) == 1438
    table = run("data", "partition", digits / "run.toml")
    assert f"c0000   {found['clients']['c0000']['examples']}" in table.out
    assert "least 254, median 377, most 522" in table.err
    assert list(here.glob("parts")) == []


@pytest.mark.parametrize("name", ["few", "many", "numbers"])
def test_a_plot_may_be_of_any_number_of_clients_and_of_labels_that_are_no_classes(name: str, run, here: Path) -> None:
    data = {
        "few": 'name = "wine"\npartition = { name = "shards", clients = 5 }',
        "many": 'name = "synthetic"\noptions = { clients = 1500, examples = 3 }',
        "numbers": 'name = "diabetes"\npartition = { name = "linear", clients = 3 }',
    }[name]
    learning = '[strategy]\nname = "fedavg"\nlocal = { lr = 0.1 }\n[cohort]\nsize = 1\n'
    text = f'plan = "p"\nrounds = 1\n{learning}[data]\n{data}\n'
    (here / "run.toml").write_text(text)
    ran = run("data", "partition", "run.toml", "--plot", "drawn.svg", "--json")
    assert ran.code == 0
    assert "<svg" in (here / "drawn.svg").read_text()
    clients = ran.envelope["data"]["clients"]
    assert len(clients) == {"few": 5, "many": 1000, "numbers": 3}[name]
    assert bool(clients["c0000"]["labels"]) == (name != "numbers")


def test_a_picture_of_an_unknown_kind_is_refused(run, here: Path, digits: Path) -> None:
    ran = run("data", "partition", digits / "run.toml", "--plot", "drawn.doc", "--json")
    assert (ran.code, ran.envelope["error"]["code"]) == (11, "file_unwritable")


def test_vertical_parts_are_written_for_everybody(run, here: Path, digits: Path) -> None:
    vertical = ["--set", "data.partition.name=vertical", "--set", "data.name=wine"]
    (here / "run.toml").write_text((digits / "run.toml").read_text().replace(", alpha = 0.3", ""))
    assert run("data", "partition", "run.toml", "--out", "parts", *vertical).code == 0
    parts = [read_columns(here / "parts" / f"c000{at}.npz") for at in range(4)]
    assert [part["features"].shape[1] for part in parts] == [4, 3, 3, 3]
    assert all(torch.equal(part["row"], parts[0]["row"]) for part in parts)
    assert ["label" in part for part in parts] == [True, False, False, False]
