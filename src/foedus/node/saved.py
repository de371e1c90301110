"""The models that runs' checkpointers keep on this node: for its owner, and never sent.

What a run calls its checkpointers becomes no path: folders and files are named by hashes, and the record in each tells
what it is. A model is in its place before the contribution that it comes with is sent; a redo after a crash chooses
again what was chosen, and writes the same bytes. Free of torch.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from foedus.domain import saved
from foedus.domain.checkpoint import CHECKPOINTERS, CheckpointerTable
from foedus.domain.errors import ConflictError, IntegrityError, NotFoundError
from foedus.domain.saved import SavedModel
from foedus.domain.table import Table, validate
from foedus.node.files import move_durably, sha256_of
from foedus.node.frames import Done
from foedus.wire.messages import Assignment

FOLDER = "saved"
OURS = re.compile(r"[0-9a-f]{40}")

_log = logging.getLogger(__name__)


class Asked(Table):
    """The checkpointers of an assignment's run."""

    checkpointer: Annotated[list[CheckpointerTable], Field(max_length=CHECKPOINTERS)] = Field(default_factory=list)


def checkpointers(ask: Assignment) -> list[CheckpointerTable]:
    """What an assignment's run wants kept.

    Raises:
        ConfigError: ``config_refused``.
    """
    return validate(Asked, {"checkpointer": list(ask.checkpointers)}, "the assignment").checkpointer


@dataclass(frozen=True)
class Place:
    """Where one saved model is, and its record."""

    folder: Path
    stem: str
    record: SavedModel

    @property
    def id(self) -> str:
        """What its owner calls it by: letters that no run chose."""
        return hashlib.sha256(f"{self.folder.name}/{self.stem}".encode()).hexdigest()[:12]

    def model(self) -> Path:
        """Its file, checked against its record."""
        return saved.model_of(self.folder, self.stem, self.record)


class SavedModels:
    """The saved models below ``folder``: a folder for each run and client.

    Raises:
        StorageError: ``saved_folder_unusable``.
    """

    def __init__(self, folder: Path) -> None:
        saved.check_folder(folder)
        self._folder = folder

    def scores(self, ask: Assignment) -> dict[str, float | None]:
        """What the run's checkpointers keep of this client now: the score by the checkpointer's name."""
        place, found = self._place(ask.run, ask.client), dict[str, float | None]()
        for table in checkpointers(ask):
            try:
                record = saved.read(place, _stem(table.called))
            except IntegrityError as error:
                _log.warning("the checkpointer %s begins anew: %s", table.called, error)
                continue
            if record is not None:
                found[table.called] = record.score
        return found

    def keep(self, ask: Assignment, done: Done, folder: Path) -> None:
        """Keep the models that work came to, which lie in ``folder`` under ``pre`` and ``post``.

        Raises:
            IntegrityError: ``saved_refused`` for a model that no checkpointer of the run asked for.
        """
        asked = {table.called: table.when for table in checkpointers(ask)}
        place = self._place(ask.run, ask.client)
        for model in done.models:
            path = folder / model.when
            digest = sha256_of(path)
            for name, score in model.scores.items():
                if asked.get(name) != model.when:
                    raise IntegrityError("saved_refused", "The work came to a model that no checkpointer asked for.")
                record = SavedModel(
                    run=ask.run,
                    client=ask.client,
                    checkpointer=name,
                    when=model.when,
                    round=model.round,
                    score=score,
                    plan=ask.plan,
                    sha256=digest,
                    size=model.size,
                    at=time.time(),
                )
                place.mkdir(mode=0o700, exist_ok=True)
                part = place / f".{_stem(name)}.part"  # on its disk, where the work's folder may not be
                shutil.copyfile(path, part)
                saved.keep(place, _stem(name), record, part, _moved)

    def all(self) -> list[Place]:
        """Every saved model, the newest first."""
        found = list[Place]()
        for folder in self._places():
            for stem in saved.stems(folder):
                try:
                    record = saved.read(folder, stem)
                except IntegrityError as error:  # the others can be told of
                    _log.warning("%s", error)
                    continue
                found += [Place(folder, stem, record)] if record else []
        return sorted(found, key=lambda place: (-place.record.at, place.id))

    def find(self, start: str) -> Place:
        """The one whose id begins so.

        Raises:
            NotFoundError: ``saved_unknown``. ConflictError: ``saved_ambiguous``.
        """
        found = [place for place in self.all() if place.id.startswith(start)]
        if not found:
            raise NotFoundError(
                "saved_unknown", f"There is no saved model {start!r:.80}.", "", "`foedus node checkpoint list`."
            )
        if len(found) > 1:
            raise ConflictError("saved_ambiguous", f"Several saved models begin with {start!r:.80}.", "", "Give more.")
        return found[0]

    def forget(self, older_than: float) -> None:
        """Remove the models of runs for which nothing was kept for so many seconds."""
        before = time.time() - older_than
        for folder in self._places():
            if all(path.stat().st_mtime < before for path in [folder, *folder.iterdir()]):
                shutil.rmtree(folder, ignore_errors=True)

    def _places(self) -> list[Path]:
        """The folders that are ours: an owner may have named one that has others in it, too."""
        return sorted(path for path in self._folder.iterdir() if OURS.fullmatch(path.name) and path.is_dir())

    def _place(self, run: str, client: str) -> Path:
        return self._folder / hashlib.sha256(f"{run}\0{client}".encode()).hexdigest()[:40]


def saved_folder(home: Path, named: str) -> Path:
    """The folder that the owner named, which has to be there; or the home's own, which is made."""
    if named:
        return Path(named).expanduser().absolute()
    (home / FOLDER).mkdir(exist_ok=True, mode=0o700)
    return home / FOLDER


def _stem(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _moved(source: Path, target: Path) -> None:
    move_durably(source, target, "saved")
