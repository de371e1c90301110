"""What an owner is shown of a plan: imports, places worth a look, and the difference from another plan."""

from __future__ import annotations

import hashlib

import pytest

from foedus.node.review import changes, review, shown

PLAN = """import os.path
from torch import nn
from collections import Counter
from .helpers import scale
import helpers, socket as s

def model():
    return nn.Linear(1, 1)
"""


def test_imports_are_told_and_the_unusual_ones_apart() -> None:
    found = review({"plan.py": PLAN, "helpers.py": "import math\n"})
    assert found.imports == ("collections", "math", "os", "socket", "torch")
    assert found.unusual == ("os", "socket")
    assert found.notices == ()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("open('/etc/passwd')", "open"),
        ("x = eval('1')", "eval"),
        ("f = exec", "exec"),
        ("__import__('os')", "__import__"),
        ("().__class__.__base__.__subclasses__()", "__subclasses__"),
        ("getattr(torch, 'lo' + 'ad')", "getattr"),
        ("torch.load('x')", "torch.load"),
        ("x = '" + "a" * 3000 + "'", "3000"),
    ],
)
def test_places_worth_a_look_are_named_with_their_lines(line: str, word: str) -> None:
    (notice, *_) = review({"plan.py": f"import torch\n\n{line}\n"}).notices
    assert (notice.file, notice.line) == ("plan.py", 3)
    assert word in notice.what


@pytest.mark.parametrize("text", ["def (", "x" * 10 + "\0", "(" * 100_000])
def test_what_is_no_python_is_said(text: str) -> None:
    (notice,) = review({"plan.py": text}).notices
    assert notice.what == "cannot be parsed as Python"
    assert review({"table.bin": text}).notices[0].file == "table.bin"


def test_the_command_of_a_command_plan_is_pointed_at_and_a_program_is_shown_by_its_digest() -> None:
    files = {"plan.json": b'{"command": ["./mean"]}', "mean": b"\x7fELF\0\x01", "work.sh": b"\x1b[2J\xff"}
    found = review({name: shown(content) for name, content in files.items()})
    assert [(notice.file, notice.what) for notice in found.notices] == [
        ("mean", "is no Python: read it where the plan does"),
        ("plan.json", "says which command is started here"),
        ("work.sh", "is no Python: read it where the plan does"),
    ]
    assert hashlib.sha256(files["mean"]).hexdigest() in shown(files["mean"])
    assert shown(files["work.sh"]) == "\x1b[2J\\xff"
    other = {**files, "mean": b"\x7fELF\0\x02"}
    lines = changes(*({name: shown(content) for name, content in version.items()} for version in (files, other)))
    assert len([line for line in lines if line.startswith(("+no text", "-no text"))]) == 2


def test_a_difference_is_shown_file_by_file() -> None:
    before, after = {"plan.py": "a\nb\nc\n", "gone.py": "x\n"}, {"plan.py": "a\nB\nc\n", "new.py": "y\n"}
    lines = changes(before, after)
    assert [line for line in lines if line[0] in "-+" and line[1:3] not in ("--", "++")] == ["-x", "+y", "-b", "+B"]
    assert changes(before, before) == []
