"""The page of results is made of the data beside it, whatever was measured and whatever failed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import results, rounds
from benchmarks.definitions import JOBS
from benchmarks.exported import Exported
from benchmarks.jobs import export, federation, shortened
from benchmarks.rounds import Row
from benchmarks.runners import AUTO, BARE, BARE_2


def row(runner: str, *seconds: float) -> Row:
    return Row(runner, list(seconds), [1.0], [2.0], [300.0], 1e-5, "a note")


def section(data: dict[str, Any]) -> dict[str, Any]:
    return {"date": "2026-01-02", "commit": "abc1234", "data": data}


def kept() -> dict[str, Any]:
    failed = Row("Flower, 2 actors", failure="OSError: no | room")
    rows = [row(BARE, 0.4, 0.5), row(BARE_2, 0.2, 0.2), row(AUTO, 0.1, 0.1), failed]
    ways = [{"way": "plain `add_`", "rate": 16.6, "peak": 381.0, "error": 1e-6}]
    case = {"case": "cohort", "population": 10_000, "cohort": 1000, "rounds": 5}
    return {
        "machine": {"processor": "P", "cores": "2"},
        "versions": {"torch": "2"},
        "peers": {"pfl": "not installed"},
        "sections": {
            "growth": section({"n": 1, "rows": [case | {"round": 0.5, "startup": 1, "peak": 9, "memory": {"100": 7}}]}),
            "j1": section(rounds_of("j1", rows)),
            "flute": section({**rounds_of("flute", []), "skipped": "no data"}),
            "averaging": section({"n": 3, "models": 20, "model_mib": 190.5, "rows": ways, "failures": {"x": "y"}}),
            "nodes": section(nodes(1000.0)),
        },
    }


def nodes(count: float) -> dict[str, Any]:
    return {"rows": [{"database": "sqlite", "nodes": count}, {"database": "postgresql", "failure": "no server"}]}


def rounds_of(name: str, rows: list[Row]) -> dict[str, Any]:
    return {"job": asdict(JOBS[name]), "n": 2, "rows": [asdict(each) for each in rows], "skipped": ""}


def test_the_page_tells_the_machine_and_every_section_in_a_fixed_order() -> None:
    page = results.page(json.loads(json.dumps(kept())))
    titles = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert titles == ["In short", *(results.SHOWN[name][0] for name in ("j1", "flute", "averaging", "growth", "nodes"))]
    assert "- **processor**: P" in page and "- **pfl**: not installed" in page
    assert "Measured 2026-01-02, commit abc1234, n = 2." in page
    assert f"| {AUTO} | 100.0 | 4.50 | 2.00 | 1.00 | 1.00 | 2.00 | 300 | 1.0e-05 | a note |" in page
    assert "| Flower, 2 actors | – | – | – | – | – | – | – | – | failed: OSError: no / room |" in page
    assert f"| {BARE} | 4.50 | 1.00 |" in page
    assert "Not measured: no data" in page
    assert "| plain `add_` | 16.6 | 2.00 | 381 | 1e-06 |" in page
    assert "| nodes | 1,000 |" in page and "postgresql: failed: no server" in page
    assert "| cohort | 10,000 | 1,000 | 5 | 500.0 | 1.00 | 9 | 100: 7 |" in page


def test_every_section_can_be_told_on_a_terminal() -> None:
    for name, one in kept()["sections"].items():
        assert results.text(name, one).startswith(results.SHOWN[name][0])


def test_the_page_in_the_repository_is_that_of_the_data_beside_it() -> None:
    data = results.FOLDER / results.DATA
    if not data.is_file():
        pytest.skip("nothing was measured yet")
    assert (results.FOLDER / results.PAGE).read_text("utf-8") == results.page(json.loads(data.read_text("utf-8")))


def test_a_section_replaces_its_former_self_and_another_machine_begins_anew(tmp_path: Path) -> None:
    def titles() -> list[str]:
        lines = (tmp_path / results.PAGE).read_text("utf-8").splitlines()
        return [line for line in lines if line.startswith("## ") or "| nodes |" in line]

    results.write({"nodes": section(nodes(1000.0))}, tmp_path)
    results.write({"blobs": section({"mb": 1.0})}, tmp_path)
    results.write({"nodes": section(nodes(2000.0))}, tmp_path)
    assert titles() == [f"## {results.SHOWN['blobs'][0]}", f"## {results.SHOWN['nodes'][0]}", "| nodes | 2,000 |"]
    data = tmp_path / results.DATA
    data.write_text(data.read_text("utf-8").replace(results.machine()["processor"], "another"), "utf-8")
    results.write({"blobs": section({"mb": 2.0})}, tmp_path)
    assert titles() == [f"## {results.SHOWN['blobs'][0]}"]


def test_ratios_are_taken_turn_by_turn_over_the_turns_that_both_took() -> None:
    assert rounds.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == 3.0
    assert rounds.ratio([2.0, 9.0], [1.0]) == 2.0
    assert rounds.ratio([], [1.0]) is None


@pytest.fixture(scope="module")
def short() -> Exported:
    return export(shortened(JOBS["j2"], 2))


def test_the_distance_is_a_share_of_the_way_that_training_went(short: Exported) -> None:
    reference = {name: array + 2.0 for name, array in short.parameters.items()}
    assert rounds.distance(reference, reference, short) == 0.0
    assert rounds.distance(short.parameters, reference, short) == pytest.approx(1.0)
    assert rounds.distance({n: a + 1.0 for n, a in short.parameters.items()}, reference, short) == pytest.approx(0.5)


def test_an_export_names_rows_of_the_clients_that_are_asked(short: Exported) -> None:
    assert short.cohorts.shape == (2, 20)
    for at, cohort in enumerate(short.cohorts.tolist()):
        for place, client in enumerate(cohort):
            rows = sorted(short.order(at, place).tolist())
            assert rows == list(range(short.bounds[client], short.bounds[client + 1]))
    clients = federation(short)
    assert np.array_equal(clients.clients["c0007"]["targets"].numpy(), short.targets[350:400])
