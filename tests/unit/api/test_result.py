"""What a notebook shows of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import foedus
from foedus.domain.errors import ConflictError, UsageError
from foedus.engine.folder import FILES

DIGITS = Path("examples/digits/run.toml")


@pytest.fixture(scope="module")
def result() -> foedus.Result:
    return foedus.simulate(DIGITS, {"rounds": 2}, kernel="eager", executor="inline", progress=False)


def test_the_table_has_a_row_per_round(result: foedus.Result) -> None:
    pytest.importorskip("pandas", reason="the extra `notebook` is not installed")
    table = result.to_dataframe()
    assert table["round"].tolist() == [1, 2]
    assert table["test/accuracy"].tolist() == [record.metrics["test/accuracy"] for record in result.rounds]
    assert table["model"].iloc[-1] == result.model_digest
    assert (table["bytes_down"] > 0).all()


def test_the_table_of_clients_has_a_row_per_receipt(result: foedus.Result) -> None:
    pytest.importorskip("pandas", reason="the extra `notebook` is not installed")
    table = result.to_dataframe(clients=True)
    assert len(table) == 2 * 2 * 4
    first = table[(table["round"] == 1) & (table["phase"] == "train")]
    assert first["client"].tolist() == ["c0000", "c0001", "c0002", "c0003"]
    assert first["examples"].sum() == sum(r.weights["examples"] for r in result.rounds[0].phases[0].receipts)


def test_rounds_jsonl_is_the_same_table_in_one_line(result: foedus.Result, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="the extra `notebook` is not installed")
    folder = result.save(tmp_path / "run")
    table = pandas.read_json(folder / "rounds.jsonl", lines=True)
    wanted = result.to_dataframe()
    assert set(wanted.columns) <= set(table.columns)
    pandas.testing.assert_frame_equal(table[wanted.columns], wanted, check_dtype=False)


def test_without_pandas_it_says_which_extra(result: foedus.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError) as refused:
        result.to_dataframe()
    assert refused.value.code == "extra_missing"
    assert "foedus[notebook]" in refused.value.fix


def test_the_plot_has_an_axes_per_metric(result: foedus.Result) -> None:
    axes = result.plot().axes
    assert [each.get_title() for each in axes] == ["accuracy", "loss"]
    line = next(line for line in axes[0].lines if line.get_label() == "test")
    assert list(line.get_ydata()) == [record.metrics["test/accuracy"] for record in result.rounds]


def test_a_notebook_shows_facts_and_curves(result: foedus.Result) -> None:
    page = result._repr_html_()
    assert page.startswith('<div class="foedus">')
    assert f"{result.held_out['accuracy']:.4f}" in page
    assert page.count("<polyline") == 3
    assert "<script" not in page
    assert repr(result).startswith("Result(digits, rounds 2: ")


def test_saving_writes_a_run_s_folder(result: foedus.Result, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "run")
    assert set(FILES) <= {path.name for path in folder.iterdir()}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["model_digest"], summary["rounds"], summary["kernel"]) == (result.model_digest, 2, "eager")
    with pytest.raises(ConflictError):
        result.save(folder)
    assert result.save(folder, force=True) == folder
