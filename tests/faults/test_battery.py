"""The battery's index: every numbered behaviour has a test that names it, and this says which.

A test names a behaviour in its own name (``test_d5_...``, ``test_case_18_...``) or in its docstring (``Case 18: ...``,
``Cases 3, 4 and 37–39: ...``, ``D5: ...``). ``python -m tests.faults.test_battery`` lists what names what.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]

CASES = {
    1: "a node killed in the middle of an upload",
    2: "an upload resumed after a reconnection",
    3: "a duplicate upload with the same bytes and key",
    4: "a duplicate upload with other bytes and the same key",
    5: "two nodes with one identity",
    6: "a late update for a closed round",
    7: "an update for a future, unknown or foreign round",
    8: "an update computed on an older model",
    9: "the coordinator killed at every crash point",
    10: "killed during a migration",
    11: "a torn or truncated checkpoint",
    12: "a flipped bit in what is stored",
    13: "a full disk",
    14: "file descriptors exhausted, idle connections, slow headers and bodies",
    15: "the database down for a minute",
    16: "the connection lost between COMMIT and its answer",
    17: "two coordinators on one database",
    18: "a leader paused past its lease",
    19: "clock skew and clock jumps",
    20: "resets, latency, half-open sockets, a narrow link",
    21: "a partition in one direction",
    22: "a certificate changed in the middle of a job",
    23: "500 nodes reconnect at once",
    26: "no node, too few, just enough, all stragglers",
    27: "cancelled or paused in each state",
    28: "a backup taken in the middle of a round and restored",
    29: "a node upgraded or rolled back in the middle of a job",
    30: "a webhook's receiver down, and duplicates",
    31: "tensors missing, too many, renamed, of another shape or dtype",
    32: "values that are not finite, and norms",
    33: "weights that are no weights",
    35: "metrics beyond all bounds",
    36: "strange arrays and overflowing shapes",
    37: "pickles and other formats posing as updates",
    38: "hostile safetensors",
    39: "bombs and hostile archives",
    40: "uploads over the limit, lying lengths, multipart",
    41: "path traversal in every name and id",
    42: "SQL in names",
    43: "markup, formulas and escapes in names",
    44: "hostile plans' YAML and TOML",
    45: "requests to addresses of the inside",
    46: "log injection and secrets in exceptions",
    47: "certificates that are not good",
    48: "join tokens reused, expired, raced",
    49: "replayed signed requests",
    50: "hostile JWTs",
    51: "the matrix of roles",
    52: "mass assignment",
    53: "failed authentication has no effect",
    54: "CSRF, fixation, brute force",
}
"""The battery of faults and attacks; 24, 25 and 34 belong to the node and to the strategies."""

BEHAVIOURS = {
    1: "participants before a start",
    2: "the weighted mean",
    3: "an update with a wrong round, of a stranger, in a wrong state",
    4: "a second upload by the same client",
    5: "the options of the model's tests",
    6: "local models kept or deleted",
    7: "a client that drops out",
    8: "an exception in aggregation",
    9: "a malicious pickle",
    13: "an unrelated user, and a participant",
    14: "one typed event per step, in order",
    15: "every model stays addressable by round",
}
"""What users of another platform rely on (D1 to D15, without those of inference and of one strategy)."""

_IN_NAME = re.compile(r"(?:^|_)(case|cases|d)_?(\d+(?:_(?:and_)?\d+)*)(?=_|$)")
_IN_TEXT = re.compile(r"\b(?:([Cc]ases?)\s+|D)(\d+(?:(?:\s*[,–-]\s*|\s+and\s+)\d+)*)")


def _numbers(text: str) -> Iterator[int]:
    """The numbers of ``3, 4 and 37–39``."""
    for piece in re.split(r"\s*,\s*|\s+and\s+|_and_|_", text):
        first, _, last = re.sub(r"\s", "", piece).replace("–", "-").partition("-")
        yield from range(int(first), int(last or first) + 1)


def named_by(function: str, docstring: str = "") -> set[str]:
    """The behaviours that a test names."""
    found = [(kind in ("case", "cases"), numbers) for kind, numbers in _IN_NAME.findall(function)]
    found += [(bool(word), numbers) for word, numbers in _IN_TEXT.findall(docstring)]
    return {f"case {number}" if case else f"D{number}" for case, numbers in found for number in _numbers(numbers)}


def index() -> dict[str, list[str]]:
    """Every behaviour, with the tests that name it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for each in named_by(node.name, ast.get_docstring(node) or ""):
                    found[each].append(f"{path.relative_to(TESTS.parent)}::{node.name}")
    return found


def wanted() -> dict[str, str]:
    """Every behaviour that the coordinator has to have, with its title."""
    cases = {f"case {number}": title for number, title in CASES.items()}
    return {**{f"D{number}": title for number, title in BEHAVIOURS.items()}, **cases}


def test_how_a_test_names_a_behaviour() -> None:
    assert named_by("test_case_18_a_paused_leader") == {"case 18"}
    assert named_by("test_d5_no_tests_where_none_are_wanted") == {"D5"}
    assert named_by("test_cases_3_4_and_40_are_refused") == {"case 3", "case 4", "case 40"}
    assert named_by("test_x", "Cases 3, 4 and 37–39, D14: it holds.") == {f"case {n}" for n in (3, 4, 37, 38, 39)} | {
        "D14"
    }
    assert named_by("test_two_of_three_cases", "In 3 cases of 1D arrays.") == set()


def test_every_numbered_behaviour_has_a_test_that_names_it() -> None:
    found = index()
    missing = [f"{each}: {title}" for each, title in wanted().items() if not found[each]]
    assert not missing, "no test names these; see the docstring of this module"


if __name__ == "__main__":
    tests = index()
    for each, title in wanted().items():
        print(f"{each} ({title}): {', '.join(tests[each]) or 'NOBODY'}")
