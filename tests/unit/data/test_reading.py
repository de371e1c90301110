"""Owners' data by a loading plan that names folders: classes of images, modalities of a medical folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foedus.data.loading import load
from foedus.data.loading_plan import LoadingPlan
from foedus.data.owned import Reading
from foedus.data.reading import columns_of
from foedus.domain.errors import ConfigError, DataError
from foedus.domain.table import validate


def _plan(**said: Any) -> LoadingPlan:
    return validate(LoadingPlan, {"name": "ward", **said}, "test")


@pytest.fixture
def skin(tmp_path: Path) -> Path:
    """Images of two classes, as a site calls them; a third class of the study's has none here."""
    for shade, name in ((10, "melanom"), (200, "naevus")):
        (tmp_path / "skin" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (4, 4), shade).save(tmp_path / "skin" / name / f"{number}.png")
    return tmp_path / "skin"


def test_folders_of_images_have_the_studys_numbers(skin: Path) -> None:
    grey = Reading(kind="images", options={"mode": "L"})
    found = columns_of(grey, _plan(folders={"naevus": 0, "keratosis": 1, "melanom": 2}), skin)
    assert found["label"].tolist() == [2, 2, 0, 0]
    assert found["image"][:, 0, 0].tolist() == [10, 10, 200, 200]
    with pytest.raises(DataError) as refused:
        columns_of(grey, _plan(folders={"naevus": 0}), skin)
    assert refused.value.code == "class_unknown"
    assert "melanom" not in str(refused.value)
    with pytest.raises(ConfigError):
        columns_of(grey, _plan(folders={"naevus": "zero", "melanom": 2}), skin)


def test_modalities_have_the_studys_names(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for subject in ("s1", "s2"):
        for at, modality in enumerate(("MR_T1", "CT", "notes")):
            (tmp_path / subject / modality).mkdir(parents=True)
            image = nibabel.Nifti1Image(np.full((2, 2, 2), at, np.int16), np.eye(4))
            image.to_filename(tmp_path / subject / modality / "image.nii.gz")
    (tmp_path / "demographics.csv").write_text("subject,age\ns1,61\ns2,62\n")
    medical = Reading(kind="medical")
    found = columns_of(medical, _plan(folders={"MR_T1": "T1", "CT": "CT"}), tmp_path)
    assert {name: column.flatten()[0].item() for name, column in found.items()} == {"T1": 0, "CT": 1, "age": 61}
    with pytest.raises(DataError) as refused:
        columns_of(medical, _plan(folders={"MR_T1": "age"}), tmp_path)
    assert refused.value.code == "loading_refused"


def test_a_plan_of_folders_reads_no_table_and_one_of_columns_no_folder(skin: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age\n1\n")
    refusals = [
        lambda: columns_of(Reading(), _plan(folders={"naevus": 0}), tmp_path / "rows.csv"),
        lambda: load(_plan(folders={"naevus": 0}), tmp_path / "rows.csv"),
        lambda: columns_of(Reading(), _plan(columns={"age": {}}), skin),
    ]
    for refused in refusals:
        with pytest.raises(DataError) as caught:
            refused()
        assert caught.value.code == "loading_refused"


@pytest.mark.parametrize("said", [{}, {"columns": {"age": {}}, "folders": {"a": 0}}, {"folders": {"a": "../b"}}])
def test_a_plan_is_of_a_table_or_of_folders(said: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        _plan(**said)
