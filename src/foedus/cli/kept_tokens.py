"""Tokens of logins, kept for the user alone: one file for each coordinator, in the user's config folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from platformdirs import user_config_path

from foedus.domain.errors import StorageError
from foedus.wire.http import check_url


def kept_token(url: str) -> str | None:
    """The token of the last login at this coordinator.

    Raises:
        ConfigError: ``url_malformed``. AccessError: ``tls_required``.
    """
    try:
        return _path(url).read_text("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def keep_token(url: str, token: str) -> Path:
    """Keep a token; the file is the user's alone (0600) from the moment when it exists.

    Raises:
        StorageError: ``file_unwritable``.
    """
    path = _path(url)
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(token + "\n")
        part.replace(path)
    except OSError as error:
        raise StorageError("file_unwritable", f"{path} cannot be written.", error.strerror or "") from error
    return path


def forget_token(url: str) -> None:
    """Forget the login at this coordinator."""
    _path(url).unlink(missing_ok=True)


def _path(url: str) -> Path:
    """A URL never becomes a path: its digest does."""
    name = hashlib.sha256(check_url(url).encode()).hexdigest()[:32]
    return user_config_path("foedus") / "tokens" / name
