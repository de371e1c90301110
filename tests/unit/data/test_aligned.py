"""H14: what a site tells of its table, and its columns as a run's alignment has them read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foedus.data.align import Alignment, alignment_of, parse_alignment, read_alignment, schema_of
from foedus.data.files import write_columns
from foedus.data.loading_plan import ColumnTable, LoadingPlan, read_loading_plan
from foedus.data.owned import Reading
from foedus.data.reading import aligned, drafted
from foedus.domain.errors import ConfigError, FoedusError

TEXT = "age,ward,label\n61,north,1\n48,south,0\n"
OTHER = "label,weight,ward,foedus_part\n0,70,west,0\n1,,north,1\n"
OWN = """
name = "ward-7"
file = { delimiter = ";" }
[columns]
age = { from = "Alter" }
ward = { from = "Station", classes = { Nord = 0, Ost = 7 }, type = "int64" }
label = { from = "Ziel", type = "int64" }
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def told(path: Path, own: LoadingPlan | None = None) -> dict[str, ColumnTable]:
    return drafted(Reading(), own, path)


def read(alignment: Alignment, path: Path, own: LoadingPlan | None = None) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in aligned(alignment, Reading(), own, path).items()}


@pytest.fixture
def both(tmp_path: Path) -> Alignment:
    texts = (("a.csv", TEXT), ("b.csv", OTHER))
    return alignment_of([told(written(tmp_path / name, text)) for name, text in texts], "label")


def test_h14_a_site_tells_its_columns_and_no_cell_but_the_names_of_classes(tmp_path: Path) -> None:
    assert {name: list(each.classes) for name, each in told(written(tmp_path / "a.csv", TEXT)).items()} == {
        "age": [],
        "ward": ["north", "south"],
        "label": [],
    }
    assert "foedus_part" not in told(written(tmp_path / "b.csv", OTHER)), "a split stays with its owner"
    write_columns(tmp_path / "c.npz", {"age": torch.tensor([3.5]), "label": torch.tensor([1])})
    assert {name: each.type for name, each in told(tmp_path / "c.npz").items()} == {"age": "float32", "label": "int64"}


def test_h14_a_table_that_an_owner_reads_by_a_loading_plan_tells_numbers(tmp_path: Path) -> None:
    own = read_loading_plan(written(tmp_path / "c.toml", OWN))
    found = told(written(tmp_path / "c.csv", "Alter;Station;Ziel;Name\n50;Nord;1;Bo\n"), own)
    assert {name: (each.type, each.classes) for name, each in found.items()} == {
        "age": ("float32", {}),
        "ward": ("int64", {}),
        "label": ("int64", {}),
    }


def test_h14_what_a_site_lacks_is_filled_by_rule_and_its_split_stays(both: Alignment, tmp_path: Path) -> None:
    assert schema_of(both) == {"label": "label", "inputs": ["age", "ward", "weight"], "classes": {"ward": 4}}
    assert read(both, tmp_path / "a.csv") == {
        "age": [61, 48],
        "ward": [0, 1],
        "weight": [0, 0],
        "label": [1, 0],
    }
    b = {"age": [0, 0], "ward": [2, 0], "weight": [70, 0], "label": [0, 1], "foedus_part": [0, 1]}
    assert read(both, tmp_path / "b.csv") == b
    assert read(both, written(tmp_path / "d.csv", "ward,label\neast,1\n"))["ward"] == [3], "as one that is missing"
    write_columns(tmp_path / "e.npz", {"label": torch.tensor([1, 0]), "foedus_part": torch.tensor([0, 1])})
    e = {"age": [0, 0], "ward": [3, 3], "weight": [0, 0], "label": [1, 0], "foedus_part": [0, 1]}
    assert read(both, tmp_path / "e.npz") == e
    for path in ("a.csv", "b.csv", "d.csv", "e.npz"):
        columns = aligned(both, Reading(), None, tmp_path / path)
        assert (columns["ward"].dtype, columns["age"].dtype) == (torch.int64, torch.float32)


def test_an_alignment_is_the_same_in_any_order_and_after_the_wire(both: Alignment, tmp_path: Path) -> None:
    sites = [told(tmp_path / "b.csv"), {}, told(tmp_path / "a.csv")]
    assert alignment_of(sites, "label") == both
    assert parse_alignment(both.to_bytes()) == both


def test_the_owners_plan_reads_first_and_its_numbers_have_to_be_the_runs(both: Alignment, tmp_path: Path) -> None:
    own = read_loading_plan(written(tmp_path / "c.toml", OWN))
    path = written(tmp_path / "c.csv", "Alter;Station;Ziel\n50;Nord;1\n")
    assert read(both, path, own) == {"age": [50], "ward": [0], "weight": [0], "label": [1]}
    path.write_text("Alter;Station;Ziel\n50;Ost;1\n")
    with pytest.raises(ConfigError, match="`ward` is numbers here") as refused:
        read(both, path, own)
    assert refused.value.code == "align_refused"


def test_a_loading_plan_of_the_researchers_reads_every_site(tmp_path: Path) -> None:
    text = OWN + 'foedus_part = { from = "use", classes = { train = 0, test = 1 }, type = "int64" }\n'
    stays = read_alignment(written(tmp_path / "stays.toml", text), "label")
    path = written(tmp_path / "c.csv", "use;Ziel;Station;Alter\ntrain;1;Ost;50\ntest;0;Nord;51\n")
    assert read(stays, path) == {"age": [50, 51], "ward": [7, 0], "label": [1, 0], "foedus_part": [0, 1]}
    with pytest.raises(ConfigError, match="no column `outcome`") as refused:
        read_alignment(tmp_path / "stays.toml", "outcome")
    assert refused.value.code == "align_refused"


def test_a_column_without_a_name_is_none(tmp_path: Path) -> None:
    assert sorted(told(written(tmp_path / "pandas.csv", ",age,label\n0,61,1\n1,48,0\n"))) == ["age", "label"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"[" * 100_000, b'{"label": "x", "plan": {"name": "a"}}'])
def test_what_is_no_alignment_is_refused(body: bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_alignment(body)
    assert refused.value.code == "config_refused"


@pytest.mark.parametrize(
    ("site", "code"),
    [
        ({"ward": torch.full((2,), 9.0), "label": torch.ones(2)}, "align_refused"),
        ({"age": torch.ones(2, 3), "label": torch.ones(2)}, "align_refused"),
        ({"age": torch.ones(2)}, "column_missing"),
    ],
    ids=["other numbers", "no table", "no label"],
)
def test_a_site_that_cannot_be_read_alike_is_refused(
    both: Alignment, site: dict[str, torch.Tensor], code: str, tmp_path: Path
) -> None:
    write_columns(tmp_path / "c.npz", site)
    with pytest.raises(FoedusError) as refused:
        read(both, tmp_path / "c.npz")
    assert refused.value.code == code


def test_a_column_that_is_numbers_at_one_site_and_classes_at_another_is_refused(tmp_path: Path) -> None:
    write_columns(tmp_path / "c.npz", {"ward": torch.ones(2), "label": torch.ones(2)})
    with pytest.raises(ConfigError, match="`ward` is numbers at one site") as refused:
        alignment_of([told(tmp_path / "c.npz"), told(written(tmp_path / "a.csv", TEXT))], "label")
    assert refused.value.code == "align_refused"


def test_together_sites_have_no_more_columns_than_a_table_has() -> None:
    sites = [{f"{site}-{at}": ColumnTable(classes={}) for at in range(6000)} for site in "ab"]
    with pytest.raises(ConfigError, match="Together they have 12000 columns"):
        alignment_of(sites, "a-0")


def test_an_alignment_that_nobody_could_fetch_is_not_made() -> None:
    texts = {f"{'x' * 900}{at}": float(at) for at in range(100)}
    site = {f"{at}": ColumnTable(classes=texts) for at in range(200)}
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        alignment_of([site], "0")
