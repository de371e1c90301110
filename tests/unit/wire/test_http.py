"""Errors cross the wire as themselves; TLS is a must off this machine; waits grow and are bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foedus.domain import errors
from foedus.domain.errors import AccessError, ConfigError, FoedusError, UnreachableError
from foedus.wire.http import (
    KINDS,
    PROBLEM_TYPE,
    Retry,
    backoff,
    check_url,
    from_problem,
    from_status,
    to_problem,
    transient,
    unreachable,
)

URL = "https://a.example"


def all_errors(kind: type[FoedusError]) -> set[type[FoedusError]]:
    return {kind}.union(*(all_errors(below) for below in kind.__subclasses__()))


def test_every_error_of_the_tree_can_cross_the_wire() -> None:
    """What only the command line knows, such as an interruption, never leaves the process."""
    assert set(KINDS.values()) == {
        kind for kind in all_errors(FoedusError) if kind.__module__ == FoedusError.__module__
    }


@pytest.mark.parametrize("kind", KINDS.values())
def test_an_error_comes_back_as_itself(kind: type[FoedusError]) -> None:
    problem = to_problem(kind("some_code", "What.", "Why.", "Fix."))
    back = from_problem(problem.status, f"{PROBLEM_TYPE}; charset=utf-8", problem.model_dump_json().encode(), URL)
    assert type(back) is kind
    assert (back.code, back.what, back.why, back.fix) == ("some_code", "What.", "Why.", "Fix.")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.UsageError),
        (401, AccessError),
        (409, errors.ConflictError),
        (422, ConfigError),
        (503, UnreachableError),
    ],
)
def test_without_a_kind_the_status_tells(status: int, kind: type[FoedusError]) -> None:
    body = b'{"title": "No.", "status": 400, "code": "some_code"}'
    assert type(from_problem(status, PROBLEM_TYPE, body, URL)) is kind


def test_a_reply_without_body_is_told_by_its_status() -> None:
    assert type(from_status(404, URL)) is errors.NotFoundError
    assert type(from_status(502, URL)) is UnreachableError


@pytest.mark.parametrize(("status", "code"), [(502, "http_502"), (403, "http_403"), (404, "answer_malformed")])
def test_what_is_no_problem_of_ours_is_somebody_elses(status: int, code: str) -> None:
    assert from_problem(status, "text/html", b"<html>", URL).code == code


def test_a_hostile_problem_reaches_no_terminal() -> None:
    body = b'{"title": "a\\u001b[2Jb", "status": 400, "code": "../../x", "fix": "' + b"x" * 9000 + b'"}'
    error = from_problem(400, PROBLEM_TYPE, body, URL)
    assert (error.what, error.code, len(error.fix)) == ("a?[2Jb", "http_400", 2000)


@given(st.integers(300, 599), st.binary(max_size=100))
def test_any_body_becomes_an_error(status: int, body: bytes) -> None:
    assert isinstance(from_problem(status, PROBLEM_TYPE, body, URL), FoedusError)


def test_only_what_may_pass_is_tried_again() -> None:
    assert transient(unreachable(URL, ""))
    assert transient(AccessError("signature_expired", ""))
    assert not transient(AccessError("signature_invalid", ""))
    assert not transient(UnreachableError("tls_failed", ""))


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded(failures: int, draw: float) -> None:
    assert 0 <= backoff(Retry(base=0.5, cap=8.0), failures, draw) <= 8.0


@pytest.mark.parametrize("url", ["http://10.0.0.1:8750", "http://example.org", "http://localhost.example.org"])
def test_without_tls_only_this_machine_is_spoken_to(url: str) -> None:
    with pytest.raises(AccessError) as caught:
        check_url(url)
    assert caught.value.code == "tls_required"


@pytest.mark.parametrize(
    "url", ["http://[::1]:8750", "http://127.1.2.3", "http://LOCALHOST:1", "https://example.org/f"]
)
def test_these_may_be_spoken_to(url: str) -> None:
    assert check_url(url + "/") == url


@pytest.mark.parametrize(
    "url",
    ["", "example.org", "ftp://example.org", "https://", "https://me:pw@example.org", "https://a/?b=1", "https://a/#b",
     "https://a:99999", "https://[::1", "https://a\n.example", "https://ä.example"],
)  # fmt: skip
def test_what_is_no_url_of_a_coordinator_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_url(url)
    assert caught.value.code == "url_malformed"
