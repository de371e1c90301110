"""What a work process is given to read, and where it finds it: links in a folder of its own, shown read-only inside.

A sandbox shows the folder and the run's dataset; without one, the process sees the same files where they are. Names are
ours, never the coordinator's. Free of torch.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foedus.domain.plan import COMMAND_ENTRY, parse_bundle, write_files
from foedus.node.frames import Order
from foedus.sandbox.bubblewrap import INSIDE

GIVEN, FILES, PLAN = "given", "files", "plan"


@dataclass(frozen=True)
class Stage:
    """One work process's folder, for one dataset; ``inside``: whether it looks from within a sandbox."""

    folder: Path
    dataset: Path
    inside: bool

    def __post_init__(self) -> None:
        self.given.mkdir(parents=True, exist_ok=True)
        _let_in(self.given)

    @property
    def given(self) -> Path:
        """The folder of links."""
        return self.folder / GIVEN

    @property
    def shown(self) -> Mapping[str, Path]:
        """What the sandbox shows, by its name inside; the dataset keeps its ending, which tells its format."""
        return {GIVEN: self.given, f"data{self.dataset.suffix}": self.dataset}

    def set(self, order: Order) -> Order:
        """Put what the order names in place, in place of the order's before; returns it with the paths seen inside."""
        if not self.inside:
            return order
        for link in self.given.iterdir():  # the folder stays: the sandbox shows this very one
            if link.name != FILES:
                link.unlink()
        parts = {part: self._give(path, f"part{at}") for at, (part, path) in enumerate(sorted(order.parts.items()))}
        return order.model_copy(
            update={
                "bundle": self._give(order.bundle, PLAN),
                "parts": parts,
                "dataset": str(INSIDE / f"data{self.dataset.suffix}"),
                "state": None if order.state is None else self._give(order.state, "state"),
                "alignment": None if order.alignment is None else self._give(order.alignment, "alignment"),
                "files": self._unpacked(),
            }
        )

    def _unpacked(self) -> str | None:
        """Where a command plan's files lie inside; they are written once, since a work process has one plan.

        They are those of the file that was given, which the process hashes, whatever lies where it came from by now.
        """
        folder = self.given / FILES
        if not folder.exists():
            plan = parse_bundle((self.given / PLAN).read_bytes())
            folder.mkdir()
            if plan.entry == COMMAND_ENTRY:
                write_files(plan, folder)
            _let_in(folder)
        return str(INSIDE / GIVEN / FILES) if (folder / COMMAND_ENTRY).exists() else None

    def clear(self) -> None:
        """Remove it; the process is gone."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _give(self, path: str, name: str) -> str:
        link = self.given / name
        try:
            os.link(path, link)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(path, link)
        if os.geteuid() == 0:  # then somebody else reads it; it is the node's own file, in a folder that nobody enters
            link.chmod(link.stat().st_mode | stat.S_IROTH)
        return str(INSIDE / GIVEN / name)


def _let_in(folder: Path) -> None:
    """Have whom a sandbox of root's becomes enter a folder and those in it, whatever the umask is."""
    if os.geteuid() == 0:
        for each in (folder, *filter(Path.is_dir, folder.rglob("*"))):
            each.chmod(0o755)
