"""H14: sites whose columns and classes differ are read by one plan, to the same columns in the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foedus.data.align import align, to_toml
from foedus.data.loading import load
from foedus.data.loading_plan import LoadingPlan, read_loading_plan
from foedus.domain.errors import FoedusError

SITES = {
    "a": "age,ward,smoker,label\n61,north,yes,1\n,south,no,0\n",
    "b": "label,ward,weight,age\n0,west,70.5,44\n1,?,80,52\n",
    "c": "ward,age,label\neast,33,1\n",
}


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.csv" for name in SITES}
    for name, text in SITES.items():
        paths[name].write_text(text)
    return paths


def united(sites: dict[str, Path], folder: Path) -> LoadingPlan:
    """By drafts that the owners of `a` and `b` hand on; `c` takes no part in it."""
    drafts = []
    for name in ("a", "b"):
        drafts.append(folder / f"{name}.toml")
        drafts[-1].write_text(to_toml(align([sites[name]], name, "label")))
    return align(drafts, "stays", "label")


def test_h14_sites_that_differ_have_the_same_columns_and_what_is_absent_is_filled_by_rule(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    plan = united(sites, tmp_path)
    assert plan == align([sites["a"], sites["b"]], "stays", "label"), "drafts say what the files say"
    assert sorted(plan.columns["ward"].classes) == ["north", "south", "west"]
    loaded = {name: load(plan, path) for name, path in sites.items()}
    for columns in loaded.values():
        kinds = {name: (column.dtype, column.shape[1:]) for name, column in columns.items()}
        assert kinds == {
            "age": (torch.float32, ()),
            "label": (torch.float32, ()),
            "smoker": (torch.int64, ()),
            "ward": (torch.int64, ()),
            "weight": (torch.float32, ()),
        }
    assert loaded["a"]["ward"].tolist() == [0, 1] and loaded["a"]["smoker"].tolist() == [1, 0]
    assert loaded["a"]["weight"].tolist() == [0.0, 0.0] and loaded["a"]["age"].tolist() == [61.0, 0.0]
    assert loaded["b"]["ward"].tolist() == [2, 3] and loaded["b"]["smoker"].tolist() == [2, 2]
    assert loaded["c"]["ward"].tolist() == [3], "a class that nobody named is as one that is missing"


def test_a_plan_that_is_written_is_the_plan_that_is_read(sites: dict[str, Path], tmp_path: Path) -> None:
    plan = united(sites, tmp_path)
    (tmp_path / "shared.toml").write_text(to_toml(plan))
    assert read_loading_plan(tmp_path / "shared.toml") == plan


def test_nothing_of_the_label_is_filled(sites: dict[str, Path], tmp_path: Path) -> None:
    plan = united(sites, tmp_path)
    for text, code in (("ward,age,label\neast,33,\n", "values_missing"), ("ward,age\neast,33\n", "column_missing")):
        sites["c"].write_text(text)
        with pytest.raises(FoedusError) as caught:
            load(plan, sites["c"])
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        ("ward,label\n1,0\n", "ward,label\nnorth,0\n", "align_refused"),
        ("ward\nnorth\n", "ward\nsouth\n", "align_refused"),
        ("name,label\n" + "".join(f"patient {at},0\n" for at in range(101)), "name,label\nx,0\n", "align_refused"),
        ("", "ward,label\nnorth,0\n", "dataset_unreadable"),
    ],
)
def test_what_cannot_be_aligned_is_refused(tmp_path: Path, a: str, b: str, code: str) -> None:
    for name, text in (("a", a), ("b", b)):
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(FoedusError) as caught:
        align([tmp_path / "a.csv", tmp_path / "b.csv"], "shared", "label")
    assert caught.value.code == code
    assert "patient" not in str(caught.value)
