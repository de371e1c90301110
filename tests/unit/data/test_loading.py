"""Loading plans: every step of a column, refusals without values, and four hospitals' own files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from foedus.data.loading import load
from foedus.data.loading_plan import LoadingPlan, digest, read_loading_plan
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.table import validate

HEART = Path(__file__).parents[4] / "shared" / "data" / "heart-disease-4site"


def plan(columns: dict[str, dict[str, Any]], **file: Any) -> LoadingPlan:
    return validate(LoadingPlan, {"name": "test", "file": file, "columns": columns}, "test")


def written(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, text: str, columns: dict[str, dict[str, Any]], **file: Any) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in load(plan(columns, **file), written(folder, text)).items()}


def test_names_classes_units_ranges_and_statistics(tmp_path: Path) -> None:
    text = "Geschlecht;cm;\u00a0Puls \nw;150;60\nm;200;300\n\nm;180;80\n"
    columns = {
        "sex": {"from": "Geschlecht", "classes": {"m": 1.0, "w": 0.0}, "type": "int64"},
        "height": {"from": "cm", "scale": 0.01},
        "pulse": {"from": "Puls", "high": 250.0, "missing": "mean", "normalise": {"mean": 60.0, "deviation": 10.0}},
    }
    made = loaded(tmp_path, text, columns, delimiter=";")
    assert made["sex"] == [0, 1, 1]
    assert made["height"] == pytest.approx([1.5, 2.0, 1.8])
    assert made["pulse"] == [0.0, 1.0, 2.0]
    assert load(plan(columns, delimiter=";"), tmp_path / "rows.csv")["sex"].dtype == torch.int64


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("mean", [1, 4, 2, 9, 4]), ("median", [1, 2, 2, 9, 2]), (7, [1, 7, 2, 9, 7]), ("drop", [1, 2, 9])],
)
def test_missing_values_are_filled_by_the_rule(tmp_path: Path, rule: str | float, expected: list[float]) -> None:
    text = "a,b\n1,1\n?,2\n2,3\n9,4\n,5\n"
    made = loaded(tmp_path, text, {"a": {"missing": rule}, "b": {}})
    assert made["a"] == expected
    assert made["b"] == ([1, 3, 4] if rule == "drop" else [1, 2, 3, 4, 5]), (
        "a row that is dropped is dropped everywhere"
    )


def test_the_commonest_value_and_the_smallest_of_those(tmp_path: Path) -> None:
    assert loaded(tmp_path, "a\n3\n1\n3\n1\n-\n", {"a": {"missing": "mode"}}, missing=["-"])["a"][-1] == 1


def test_statistics_are_of_the_rows_to_train_on_alone(tmp_path: Path) -> None:
    text = "a,b,use\n1,5,train\n3,5,train\n100,9,test\n5,5,train\n?,1,train\n"
    part = {"from": "use", "classes": {"train": 0, "test": 1}, "type": "int64"}
    columns = {
        "a": {"missing": "drop", "normalise": "train"},
        "b": {"normalise": "train"},
        "foedus_part": part,
    }
    made = loaded(tmp_path, text, columns)
    assert made["a"] == [-1.0, 0.0, 48.5, 1.0], "mean 3 and deviation 2, of 1, 3 and 5"
    assert made["b"] == [0.0, 0.0, 4.0, 0.0], "what does not vary is not divided"
    assert made["foedus_part"] == [0, 0, 1, 0]


def test_statistics_of_rows_to_train_on_need_to_know_which_these_are() -> None:
    with pytest.raises(ConfigError, match="foedus_part"):
        plan({"a": {"normalise": "train"}})


def test_a_file_without_a_header_is_named_or_numbered(tmp_path: Path) -> None:
    text = "1,2\n3,4\n"
    assert loaded(tmp_path, text, {"x": {"from": "2"}}, header=False) == {"x": [2, 4]}
    assert loaded(tmp_path, text, {"x": {"from": "q"}}, header=False, names=["p", "q"]) == {"x": [2, 4]}


@pytest.mark.parametrize(
    ("text", "column", "code"),
    [
        ("a\nsecret-17\n", {}, "dataset_not_numeric"),
        ("a\nsecret-17\n", {"classes": {"x": 1.0}}, "class_unknown"),
        ("a\n?\n1\n", {}, "values_missing"),
        ("a\n?\n?\n", {"missing": "mean"}, "values_missing"),
        ("a\n1e999\n1\n", {}, "values_missing"),
        ("a\n1.5\n", {"type": "int64"}, "dataset_not_numeric"),
        ("b\n1\n", {}, "column_missing"),
    ],
)
def test_what_cannot_be_loaded_is_refused_without_a_value_or_a_path(
    tmp_path: Path, text: str, column: dict[str, Any], code: str
) -> None:
    with pytest.raises(DataError) as refused:
        loaded(tmp_path, text, {"a": column})
    assert refused.value.code == code
    assert "secret" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_no_file_and_no_text_are_one_refusal(tmp_path: Path) -> None:
    (tmp_path / "noise.csv").write_bytes(b"\xff\xfe\x00a,b\n")
    for name in ("nowhere.csv", "noise.csv"):
        with pytest.raises(DataError) as refused:
            load(plan({"a": {}}), tmp_path / name)
        assert refused.value.code == "dataset_unreadable"


def test_a_plan_that_is_none_is_refused_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('name = "x"\n[columns.a]\nmising = "drop"\n')
    with pytest.raises(ConfigError, match="mising"):
        read_loading_plan(tmp_path / "plan.toml")


def test_a_plan_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        'name = "x"\nfile = { header = false, names = ["a", "b"], missing = ["-9"] }\n'
        '[columns]\nsex = { from = "b", classes = { f = 0, m = 1 }, type = "int64" }\na = { missing = "drop" }\n'
    )
    made = load(read_loading_plan(tmp_path / "plan.toml"), written(tmp_path, "1,f\n-9,m\n3,m\n"))
    assert {name: column.tolist() for name, column in made.items()} == {"sex": [0, 1], "a": [1.0, 3.0]}


def test_the_digest_is_of_all_that_is_said() -> None:
    one = plan({"a": {}})
    assert digest(one) == digest(plan({"a": {"missing": "refuse"}}))
    assert digest(one) != digest(plan({"a": {"missing": "drop"}}))


@pytest.mark.skipif(not HEART.is_dir(), reason=f"needs {HEART}")
def test_four_hospitals_have_the_rows_that_the_literature_counts(tmp_path: Path) -> None:
    names = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
    columns: dict[str, dict[str, Any]] = {
        name: {"from": str(at), "missing": "drop"} for at, name in enumerate(names, 1)
    }
    columns["num"] = {"from": "14", "type": "int64"}
    heart = plan(columns, header=False)
    sites = {
        site: load(heart, HEART / f"processed.{site}.data") for site in ("cleveland", "hungarian", "switzerland", "va")
    }
    assert {site: len(found["age"]) for site, found in sites.items()} == {
        "cleveland": 303,
        "hungarian": 261,
        "switzerland": 46,
        "va": 130,
    }


def test_the_plan_in_the_guide_is_one(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "data.md").read_text()
    (text,) = [block for block in re.findall(r"^```toml\n(.*?)^```$", guide, re.M | re.S) if "[columns]" in block]
    (tmp_path / "plan.toml").write_text(text)
    rows = written(tmp_path, "30;m;85000;train\n130;w;-9;test\n50;?;1;test\n")
    made = load(read_loading_plan(tmp_path / "plan.toml"), rows)
    assert {name: column.tolist() for name, column in made.items()} == {
        "age": [30.0, 30.0],
        "sex": [1, 0],
        "weight": [1.0, 0.0],
        "foedus_part": [0, 1],
    }
