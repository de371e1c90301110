"""Subjects with every modality and demographics are rows; images are one size or are made so."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foedus.data.catalogue import read_owned
from foedus.data.owned import Reading
from foedus.domain.errors import DataError, FoedusError

nibabel = pytest.importorskip("nibabel")


def _image(folder: Path, subject: str, modality: str, voxels: Any, kind: Any = nibabel.Nifti1Image) -> Path:
    path = folder / subject / modality / f"{subject}_{modality}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    kind(np.asarray(voxels), np.eye(4)).to_filename(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three subjects; `s2` lacks a modality, and `s4` has demographics alone."""
    for at, subject in enumerate(("s3", "s1")):
        _image(tmp_path, subject, "T1", np.full((2, 3, 4), at + 1, np.int16))
        _image(tmp_path, subject, "label", np.full((2, 3, 4), at, np.uint8), nibabel.Nifti2Image)
    _image(tmp_path, "s2", "T1", np.zeros((2, 3, 4), np.int16))
    (tmp_path / ".cache").mkdir()
    rows = ["subject,age,ward", "s1,61,a", "s2,62,b", "s3,63,c", "s4,64,d"]
    (tmp_path / "demographics.csv").write_text("\n".join(rows))
    return tmp_path


def _read(folder: Path, **options: object) -> Any:
    return read_owned(Reading(kind="medical", options={"columns": ["age"], **options}), folder)


def test_complete_subjects_are_rows_in_the_order_of_their_names(folder: Path) -> None:
    columns = _read(folder)
    assert sorted(columns) == ["T1", "age", "label"]
    assert columns["T1"].shape == (2, 2, 3, 4) and columns["T1"][:, 0, 0, 0].tolist() == [2.0, 1.0]
    assert columns["age"].tolist() == [61.0, 63.0]


def test_the_modalities_and_columns_that_are_named_are_taken(folder: Path) -> None:
    columns = _read(folder, modalities=["T1"])
    assert sorted(columns) == ["T1", "age"] and columns["age"].tolist() == [61.0, 62.0, 63.0]


def test_without_demographics_there_are_images_alone(folder: Path) -> None:
    (folder / "demographics.csv").unlink()
    assert sorted(_read(folder)) == ["T1", "label"]


def test_images_of_different_sizes_are_refused_or_fitted(folder: Path) -> None:
    _image(folder, "s1", "T1", np.ones((4, 3, 2), np.int16))
    with pytest.raises(DataError) as caught:
        _read(folder, modalities=["T1"])
    assert caught.value.code == "dataset_ragged"
    fitted = _read(folder, modalities=["T1"], shape=[2, 3, 4])["T1"]
    assert fitted.shape == (3, 2, 3, 4) and fitted[0].sum() == 2 * 3 * 2


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"columns": []}, "dataset_not_numeric"),  # `ward` is text
        ({"columns": ["height"]}, "column_missing"),
        ({"subject": "patient"}, "column_missing"),
        ({"demographics": "other.csv"}, "dataset_missing"),
        ({"demographics": "../secret.csv"}, "config_refused"),
        ({"modalities": ["../T1"]}, "config_refused"),
        ({"modalities": ["T2"]}, "dataset_missing"),
    ],
)
def test_what_is_not_there_is_told_without_the_path(folder: Path, options: dict[str, Any], code: str) -> None:
    with pytest.raises(FoedusError) as caught:
        _read(folder, **options)
    assert caught.value.code == code
    assert str(folder) not in str(caught.value)


def test_a_file_that_is_no_image_and_one_that_would_unpack_too_large_are_refused(folder: Path) -> None:
    path = next((folder / "s1" / "T1").iterdir())
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 100))
    with pytest.raises(DataError) as caught:
        _read(folder)
    assert caught.value.code == "dataset_too_large"
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(DataError) as caught:
        _read(folder)
    assert caught.value.code == "dataset_unreadable"
