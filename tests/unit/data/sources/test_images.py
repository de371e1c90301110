"""Image folders: a folder is a class, and what is no image is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foedus.data.catalogue import load
from foedus.data.sources.source import Pool
from foedus.domain.errors import DataError
from foedus.domain.run import DataTable

Image = pytest.importorskip("PIL.Image", reason="the extra `images` is not installed")


def _write(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (4, 3)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def _load(folder: Path, **keys: object) -> Pool:
    found = load(DataTable.model_validate({"name": "images", "folder": str(folder), **keys}))
    assert isinstance(found, Pool)
    return found


def _folder(folder: Path) -> Path:
    _write(folder / "dogs" / "b.png", (10, 20, 30))
    _write(folder / "cats" / "a.png", (255, 0, 0))
    _write(folder / "cats" / "c.bmp", (0, 0, 255))
    (folder / "cats" / "notes.txt").write_text("not an image")
    (folder / ".git").mkdir()
    return folder


def test_folders_are_classes_in_their_order(tmp_path: Path) -> None:
    columns = _load(_folder(tmp_path)).columns
    assert columns["label"].tolist() == [0, 0, 1]
    assert (columns["image"].shape, columns["image"].dtype) == ((3, 3, 3, 4), torch.uint8)
    assert columns["image"][2, :, 0, 0].tolist() == [10, 20, 30]


def test_images_may_be_grey_and_scaled(tmp_path: Path) -> None:
    _write(_folder(tmp_path) / "dogs" / "larger.png", (0, 0, 0), (40, 30))
    with pytest.raises(DataError, match=r"options\.size") as refusal:
        _load(tmp_path)
    assert refusal.value.code == "dataset_ragged"
    assert _load(tmp_path, options={"size": 8, "mode": "L"}).columns["image"].shape == (4, 8, 8)


def test_train_and_test_have_the_classes_of_train(tmp_path: Path) -> None:
    _folder(tmp_path / "train")
    _write(tmp_path / "test" / "dogs" / "x.png", (1, 2, 3))
    found = _load(tmp_path, held_out="test")
    assert found.test is not None
    assert (found.test["label"].tolist(), len(found.columns["label"])) == ([1], 3)
    assert _load(tmp_path).test is None


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\x80\x04K\x01."])
def test_a_file_that_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    (_folder(tmp_path) / "cats" / "z.png").write_bytes(content)
    with pytest.raises(DataError, match=r"z\.png") as refusal:
        _load(tmp_path)
    assert refusal.value.code == "dataset_unreadable"


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError) as refusal:
        _load(tmp_path)
    assert refusal.value.code == "dataset_unreadable"


def test_a_folder_without_classes_is_told_how_it_should_be(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(DataError, match="one folder of images per class") as refusal:
            _load(folder)
        assert refusal.value.code == "dataset_missing"
