"""Files of owners: every bit kept, nothing unpickled, and whatever is no dataset refused with a code."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foedus.data.dataset import check_columns
from foedus.data.files import read_columns, write_columns
from foedus.domain.codec import encode_tensors
from foedus.domain.errors import DataError
from foedus.domain.tree import dtypes, same

COLUMNS = {
    "a": torch.arange(12.0).reshape(4, 3) / 7,
    "b": torch.arange(4),
    "c": torch.tensor([True, False, True, True]),
}
IN_NUMPY = sorted(set(dtypes) - {"BF16"})


@given(st.lists(st.sampled_from(IN_NUMPY), min_size=1, max_size=4), st.binary(min_size=48, max_size=48))
def test_npz_keeps_every_bit_and_dtype(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], content: bytes
) -> None:
    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    bits = {kind: (raw % 2).bool() if kind == "BOOL" else raw.view(dtypes[kind]) for kind in kinds}
    columns = {f"{at}": bits[kind].reshape(3, -1) for at, kind in enumerate(kinds)}
    path = tmp_path_factory.mktemp("npz") / "c0000.npz"
    write_columns(path, columns)
    assert same(read_columns(path), columns)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "x.npy", "Größe"])
def test_any_name_of_a_column_comes_back(name: str, tmp_path: Path) -> None:
    write_columns(tmp_path / "t.npz", {name: torch.zeros(2)})
    assert list(read_columns(tmp_path / "t.npz")) == [name]


def test_safetensors_keeps_every_bit_and_dtype(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(encode_tensors(COLUMNS))
    assert same(read_columns(tmp_path / "t.safetensors"), COLUMNS)


def test_csv_is_a_table_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n61.5,1\n40,0\n")
    columns = read_columns(tmp_path / "t.csv")
    assert columns["age"].tolist() == [61.5, 40.0]
    assert columns["label"].dtype == torch.float32


def test_spreadsheets_mark_and_empty_lines_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "T.CSV").write_bytes(b"\xef\xbb\xbfage,label\r\n61.5,1\r\n\r\n")
    assert {name: column.tolist() for name, column in read_columns(tmp_path / "T.CSV").items()} == {
        "age": [61.5],
        "label": [1.0],
    }


def test_columns_named_by_number_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("0,1\n61.5,1\n")
    assert list(read_columns(tmp_path / "t.csv")) == ["0", "1"]


def test_a_cell_that_is_no_number_is_told_by_column_and_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n40,0\nsecret,1\n")
    with pytest.raises(DataError, match="column `age` has a cell in row 3"):
        read_columns(tmp_path / "t.csv")


def test_an_empty_cell_is_a_missing_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,label\n,1\n40,0\n")
    with pytest.raises(DataError, match="age"):
        check_columns(read_columns(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("t.csv", b"a,b\n1,secret\n", "dataset_not_numeric"),
        ("t.csv", b"a,b\n1\n", "dataset_not_numeric"),
        ("t.csv", b"\xff\xfe", "dataset_unreadable"),
        ("t.csv", b"a\n" + b"1" * 200_000, "dataset_unreadable"),
        ("t.csv", b"a,a\n1,2\n", "dataset_unreadable"),
        ("t.csv", b"-61.5,1\n40,0\n", "dataset_unreadable"),
        ("t.npz", b"not a zip", "dataset_unreadable"),
        ("t.safetensors", b"\x80\x04K\x01.", "dataset_unreadable"),
        ("t.pkl", b"\x80\x04K\x01.", "dataset_unreadable"),
        ("missing.npz", None, "dataset_unreadable"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused_without_its_values(
    name: str, content: bytes | None, code: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_columns(tmp_path / name)
    assert refusal.value.code == code
    assert not any(value in str(refusal.value) for value in ("secret", "61.5"))


def test_a_pickled_array_in_an_npz_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError) as refusal:
        read_columns(tmp_path / "t.npz")
    assert refusal.value.code == "dataset_unreadable"


@pytest.mark.parametrize("column", [np.array(["a"]), np.zeros(2, "c8"), np.zeros(2, "u2"), np.zeros(2, ">f4")])
def test_a_column_of_a_type_that_no_model_takes_is_refused(column: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=column)
    with pytest.raises(DataError) as refusal:
        read_columns(tmp_path / "t.npz")
    assert refusal.value.code == "dataset_unreadable"


def _npz(compression: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array(member, np.arange(200.0))
    return content.getvalue()


ARCHIVES = [_npz(kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)]


@given(
    st.sampled_from(ARCHIVES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    st.floats(0.5, 1.0),
)
def test_a_damaged_archive_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, archive: bytes, damage: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(archive)
    for place, value in damage:
        content[int(place * len(content))] = value
    path = tmp_path_factory.mktemp("damaged") / "t.npz"
    path.write_bytes(content[: int(kept * len(content))])
    try:
        columns = read_columns(path)
    except DataError as refusal:
        assert refusal.code == "dataset_unreadable"
    else:
        assert all(isinstance(column, torch.Tensor) for column in columns.values())


@pytest.mark.parametrize("at", [6, 8])  # the flags (1: encrypted), the method of compression
def test_an_archive_that_needs_more_than_reading_is_refused(at: int, tmp_path: Path) -> None:
    content = bytearray(ARCHIVES[0])
    for start, shift in ((content.index(b"PK\3\4"), 0), (content.index(b"PK\1\2"), 2)):
        content[start + at + shift] |= 1
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_columns(tmp_path / "t.npz")
    assert refusal.value.code == "dataset_unreadable"
