"""A reason that leaves the node holds no path and no value."""

from __future__ import annotations

import errno

import pytest

from foedus.domain.errors import ClientWorkError, DataError
from foedus.node.reasons import failure, failure_of

SECRET = "/home/clinic/patients.csv 42.5"


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("column_missing", SECRET, SECRET, SECRET), "column_missing"),
        (DataError("something_new", SECRET, SECRET), "something_new"),
        (ClientWorkError("plan_failed", SECRET), "plan_failed"),
        (ValueError(SECRET), "work_failed"),
        (OSError(errno.ENOSPC, SECRET), "disk_full"),
        (OSError(errno.EACCES, SECRET, SECRET), "work_failed"),
    ],
)
def test_the_message_stays_in_the_log(error: BaseException, code: str) -> None:
    failed = failure_of(raised(error, KeyError(SECRET)))
    assert failed.code == code
    assert "patients" not in failed.reason and "42.5" not in failed.reason
    assert "patients" in failed.detail


def test_the_plan_s_exception_is_named_by_its_type() -> None:
    failed = failure_of(raised(ClientWorkError("plan_failed", "It failed."), ZeroDivisionError(SECRET)))
    assert failed.reason == "The plan's code failed. It raised ZeroDivisionError."


def test_a_type_with_a_made_up_name_is_not_named() -> None:
    odd = type(SECRET, (Exception,), {})()
    assert "patients" not in failure_of(raised(ClientWorkError("plan_failed", "It failed."), odd)).reason


def test_a_long_detail_is_cut() -> None:
    assert len(failure("work_failed", "x" * 100_000).detail) == 10_000
