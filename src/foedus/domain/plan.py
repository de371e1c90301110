"""The training plan as bytes: a bundle of files under a digest, and the manifest of its model.

Nothing here runs a plan. What an owner approves is the digest of the raw bytes: one changed byte is another plan.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foedus.domain.errors import PlanError, TooLargeError

BUNDLE_LIMIT = 4 << 20
FILES_LIMIT = 200
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
BESIDE = ("lock", "options.json")
ENTRIES = ("plan.py", COMMAND_ENTRY := "plan.json")
"""What may be the entry of a folder: Python that defines the plan, or what says which command is one."""


@dataclass(frozen=True)
class PlanBundle:
    """The plan's files: posix path → bytes. ``entry`` is the file that says what the plan is."""

    files: Mapping[str, bytes]
    entry: str

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted manifest (path, size, SHA-256 of each file)."""
        rows = [
            [path, len(content), hashlib.sha256(content).hexdigest()] for path, content in sorted(self.files.items())
        ]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The bundle as canonical JSON, for the wire."""
        files = {path: base64.b64encode(content).decode() for path, content in sorted(self.files.items())}
        return json.dumps({"entry": self.entry, "files": files}, separators=(",", ":"), sort_keys=True).encode()


def read_bundle(path: Path) -> PlanBundle:
    """The bundle of a plan file (with ``lock`` and ``options.json`` beside it) or of a plan directory.

    ``__pycache__`` and dot files are left out.

    Raises:
        PlanError: ``plan_missing`` where there is no such file, or a directory has no ``plan.py`` and no ``plan.json``.
        TooLargeError: ``plan_too_large`` over 4 MiB or 200 files.
    """
    if path.is_dir():
        found = {str(PurePosixPath(file.relative_to(path))): file for file in sorted(path.rglob("*")) if file.is_file()}
        files = {name: file for name, file in found.items() if not _left_out(name)}
        entry = next((name for name in ENTRIES if name in files), ENTRIES[0])
    else:
        beside = {name: path.parent / name for name in BESIDE if (path.parent / name).is_file()}
        files = {path.name: path, **beside} if path.is_file() else {}
        entry = path.name
    if entry not in files:
        raise PlanError(
            "plan_missing",
            f"There is no training plan at {path}.",
            "`plan` in run.toml names a Python file, or a directory with a plan.py or a plan.json, beside run.toml.",
            "Correct `plan`, or make a plan that runs with `foedus new DIR`.",
        )
    if len(files) > FILES_LIMIT or sum(file.stat().st_size for file in files.values()) > BUNDLE_LIMIT:
        raise _too_large()
    return PlanBundle({name: file.read_bytes() for name, file in files.items()}, entry)


def parse_bundle(content: bytes) -> PlanBundle:
    """The bundle from :meth:`PlanBundle.to_bytes`; everything in it is checked, so that a digest has one bundle.

    Raises:
        PlanError: ``plan_malformed``.
        TooLargeError: ``plan_too_large``.
    """
    if len(content) > 2 * BUNDLE_LIMIT:
        raise _too_large()
    try:
        body = json.loads(content)
        files = {str(path): base64.b64decode(text, validate=True) for path, text in body["files"].items()}
        entry = body["entry"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise PlanError("plan_malformed", "The plan's bytes are not a plan bundle.", type(error).__name__) from error
    if len(files) > FILES_LIMIT or sum(map(len, files.values())) > BUNDLE_LIMIT:
        raise _too_large()
    if not isinstance(entry, str) or entry != _entry(files):
        raise PlanError("plan_malformed", "The plan's bundle names files that a plan may not have.")
    check_names(files)
    bundle = PlanBundle(files, entry)
    if bundle.to_bytes() != content:
        raise PlanError("plan_malformed", "The plan's bundle is not written in the one way that there is.")
    return bundle


def write_files(bundle: PlanBundle, folder: Path) -> None:
    """Write a plan's files below ``folder``, each so that it may be read and started, and not written to."""
    check_names(bundle.files)
    for name, content in bundle.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o555)


def check_names(names: Iterable[str]) -> None:
    """Refuse names of files that must not become paths.

    Raises:
        PlanError: ``plan_malformed``.
    """
    seen, folders = set[str](), set[str]()
    for name in names:
        inside = {str(folder) for folder in PurePosixPath(name.lower()).parents}
        if not _legal(name) or name.lower() in seen | folders or inside & seen:
            raise PlanError(
                "plan_malformed",
                f"The plan has a file that is called {name!r:.80}.",
                "Names in a plan are made of letters, digits, `_`, `.` and `-`, begin with none of the last two, "
                "differ by more than capitals, and are of a file or of a folder.",
                "Rename it, or move it out of the plan's folder.",
            )
        seen.add(name.lower())
        folders |= inside


def _entry(files: Mapping[str, bytes]) -> str:
    """The entry: the only file but for what may lie beside it, or one of ``ENTRIES``. The digest binds it thereby."""
    own = sorted(set(files) - set(BESIDE))
    return own[0] if len(own) == 1 else next((name for name in ENTRIES if name in files), "")


def _left_out(name: str) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in PurePosixPath(name).parts)


def _legal(name: str) -> bool:
    return len(name) <= 400 and all(PART.fullmatch(part) and ".." not in part for part in name.split("/"))


def _too_large() -> TooLargeError:
    return TooLargeError(
        "plan_too_large",
        f"The plan is over {BUNDLE_LIMIT >> 20} MiB or {FILES_LIMIT} files.",
        "A plan is code; data and weights do not belong in it.",
        "Move data out of the plan's folder.",
    )


@dataclass(frozen=True)
class ModelTensor:
    """One tensor of the model. ``kind`` is ``parameter``, ``buffer`` or ``frozen`` (a parameter without gradient)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    module: str


@dataclass(frozen=True)
class ModelManifest:
    """What the researcher's side says of the model: tensors, and metric names with ``max`` or ``min`` as direction."""

    tensors: tuple[ModelTensor, ...]
    metrics: Mapping[str, str]
