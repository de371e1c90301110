"""What a received name may be. A name is shown and compared; it never becomes a path."""

from __future__ import annotations

import re

from foedus.domain.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
TENSOR_NAME_LIMIT = 256

PART = "foedus_part"
"""The column, where a data set has it, that says of each row what it is for; then a run's shares do not count.

0: to train on, 1: to test on, 2: to validate on. A plan's ``prepare`` does not see it.
"""


def check_name(name: str, kind: str) -> str:
    """Return ``name`` if it is 1 to 64 letters, digits, ``.``, ``_`` or ``-``, and starts and ends with the first two.

    Raises:
        ConfigError: ``name_refused``; the name itself is shown shortened and escaped.

    >>> check_name("clinic-a", "client")
    'clinic-a'
    """
    if NAME.fullmatch(name):
        return name
    shown = ascii(name[:40]) + ("…" if len(name) > 40 else "")
    raise ConfigError(
        "name_refused",
        f"The {kind} name {shown} is not allowed.",
        "Names have 1 to 64 letters, digits, '.', '_' or '-', and start and end with a letter or digit.",
        f"Choose another {kind} name.",
    )


def check_tensor_name(name: str) -> bool:
    """Whether a tensor's name is printable, short and free of path tricks (``..``, slashes)."""
    plain = name.isprintable() and "/" not in name and "\\" not in name and ".." not in name
    return 0 < len(name) <= TENSOR_NAME_LIMIT and plain
