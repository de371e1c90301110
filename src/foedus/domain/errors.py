"""The one error tree. Every error says what happened, why, and what to do, and has a stable code.

::

    FoedusError                 exit  http   raised when
    ├── UsageError                2    400   a command or call is not well formed
    ├── ConfigError               3    422   run.toml, settings or options are wrong
    │   ├── PlanError             3    422   the training plan cannot be used
    │   └── DataError             3    422   a dataset cannot be used
    ├── AccessError               4    401   who you are is unknown or refused
    │   └── ForbiddenError        4    403   known, but not allowed
    ├── UnreachableError          5    503   a peer does not answer, or answers with nonsense
    │   └── BusyError             5    429   a peer asks to come more slowly
    ├── NotFoundError             6    404   there is no such thing, or it is not yours
    ├── ConflictError             7    409   it is there already, or in another state
    │   └── RoundClosedError      7    410   the contribution came too late
    ├── QuorumError               9    409   too few clients
    ├── IntegrityError           10    422   bytes are not what they say they are
    │   ├── TooLargeError        10    413   over a stated limit
    │   └── ContributionError    10    422   an update differs from its schema
    ├── StorageError             11    507   the disk is full or refuses
    ├── ClientWorkError           1    500   the plan's own code failed while it ran
    └── RunFailedError            1    500   a run ended without its result

The ``code`` is for programs and never changes its meaning; the sentences are for people.
"""

from __future__ import annotations

from typing import ClassVar


class FoedusError(Exception):
    """What happened (``what``), why (``why``) and how to fix it (``fix``), under a stable ``code``."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, code: str, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        """One line with all three sentences."""
        parts = [self.what, self.why and f"Why: {self.why}", self.fix and f"Fix: {self.fix}"]
        return " ".join(part for part in parts if part)

    def __reduce__(self) -> tuple[object, ...]:
        """Let an error cross the pipe between the processes of one simulation."""
        return type(self), (self.code, self.what, self.why, self.fix)


class UsageError(FoedusError):
    """A command or a call is not well formed."""

    exit_code, http_status = 2, 400


class ConfigError(FoedusError):
    """run.toml, the settings or a strategy's options are wrong."""

    exit_code, http_status = 3, 422


class PlanError(ConfigError):
    """The training plan cannot be used."""


class DataError(ConfigError):
    """A dataset cannot be used."""


class AccessError(FoedusError):
    """Who is asking is unknown or refused."""

    exit_code, http_status = 4, 401


class ForbiddenError(AccessError):
    """Who is asking is known, and may not."""

    http_status = 403


class UnreachableError(FoedusError):
    """A peer does not answer, or not in our protocol."""

    exit_code, http_status = 5, 503


class BusyError(UnreachableError):
    """A peer asks to come more slowly."""

    http_status = 429


class NotFoundError(FoedusError):
    """There is no such thing, or it is not yours: the two are told alike."""

    exit_code, http_status = 6, 404


class ConflictError(FoedusError):
    """It is there already, or in another state."""

    exit_code, http_status = 7, 409


class RoundClosedError(ConflictError):
    """The contribution came after its phase was closed."""

    http_status = 410


class QuorumError(FoedusError):
    """Too few clients contributed, or are there."""

    exit_code, http_status = 9, 409


class IntegrityError(FoedusError):
    """Bytes are not what they say they are."""

    exit_code, http_status = 10, 422


class TooLargeError(IntegrityError):
    """Over a stated limit."""

    http_status = 413


class ContributionError(IntegrityError):
    """An update or its weights differ from what the phase's schema declares."""


class StorageError(FoedusError):
    """The disk is full or refuses."""

    exit_code, http_status = 11, 507


class ClientWorkError(FoedusError):
    """The plan's own code failed while it ran for a client."""


class RunFailedError(FoedusError):
    """A run ended without its result."""
