"""Folders as the sandbox of a work process shows them: what reads them is there, and a plan trains on what comes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foedus.data.owned import Reading
from foedus.node.frames import Done
from foedus.node.policy import Policy
from foedus.node.workers import Patience, Pool
from foedus.sandbox.bubblewrap import unavailable
from foedus.wire.messages import Sends
from tests.unit.node.support import PLAN, Desk, bundle_of, truth

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=f"{unavailable()} apt-get install bubblewrap")

SENDS = Sends(parts=("parameters",), weights=("examples",), metrics=("loss",))


def _scans(folder: Path) -> Reading:
    nibabel = pytest.importorskip("nibabel")
    for at in range(10):
        (folder / f"s{at}" / "T1").mkdir(parents=True)
        image = nibabel.Nifti1Image(np.full((2, 2, 1), at, np.float32), np.eye(4))
        image.to_filename(folder / f"s{at}" / "T1" / "scan.nii.gz")
    rows = "".join(f"s{at},{at % 2}\n" for at in range(10))
    (folder / "demographics.csv").write_text(f"subject,label\n{rows}")
    return Reading(kind="medical", options={"modalities": ["T1"]})


def _pets(folder: Path) -> Reading:
    for at, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (2, 2), 40 * number + at).save(folder / name / f"{number}.png")
    return Reading(kind="images", options={"mode": "L"})


@pytest.mark.parametrize(("write", "column"), [(_scans, "T1"), (_pets, "image")])
def test_a_folder_is_read_in_the_sandbox(tmp_path: Path, write, column: str) -> None:
    body = f'return columns["{column}"].float().reshape(-1, 4) / 255, columns["label"].long()'
    desk = Desk(tmp_path / "desk", bundle_of(f"{PLAN}\n\ndef prepare(columns):\n    {body}\n"))
    update = {"reading": write(tmp_path / "data"), "dataset": str(tmp_path / "data")}
    order = desk.order(truth().model, sends=SENDS).model_copy(update=update)

    async def working() -> object:
        pool = Pool(desk.folder / "home", Patience(60.0, 60.0, 1), lambda _: Policy())
        try:
            return await pool.ask(order, desk.folder, lambda: None)
        finally:
            await pool.close()

    done = asyncio.run(working())
    assert isinstance(done, Done), done
    assert done.weights == {"examples": 8.0}
