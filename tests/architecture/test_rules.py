"""The budgets and bans hold in ``src``, save for the exceptions that are listed with a reason."""

from __future__ import annotations

import pytest

from tests.architecture.allowed import ALLOWED
from tests.architecture.rules import RULES
from tests.architecture.sources import SRC, Module, parse, read_modules

SOURCE = read_modules(SRC)


@pytest.mark.parametrize("rule", RULES)
def test_the_source_keeps_the_rule(rule: str) -> None:
    allowed = ALLOWED.get(rule, {})
    broken = [f"{found.key}: {found.detail}" for found in RULES[rule](SOURCE) if found.key not in allowed]
    assert not broken, "\n".join([f"{rule} is broken:", *broken])


@pytest.mark.parametrize(("rule", "key"), [(rule, key) for rule, entries in ALLOWED.items() for key in entries])
def test_each_exception_is_still_needed_and_has_a_reason(rule: str, key: str) -> None:
    assert len(ALLOWED[rule][key].split()) >= 3
    assert key in {found.key for found in RULES[rule](SOURCE)}


def many(line: str, times: int) -> str:
    return "\n".join([line] * times)


BROKEN = {
    "file_lines": ("m", many("x = 1", 301)),
    "function_lines": ("m.f", "def f():\n    '''Doc.'''\n" + many("    x = 1", 41)),
    "class_lines": ("m.C", "class C:\n" + many("    x = 1", 250)),
    "parameters": ("m.C.f", "class C:\n    def f(self, a, b, c, /, d, *e, g, **h): ..."),
    "inheritance": ("m.C", "class A(Exception): ...\nclass B(A[int]): ...\nclass C(B): ..."),
    "imports_in_functions": ("m.f", "def f():\n    if True:\n        import json"),
    "docstrings": ("m.C.f", "'''Doc.'''\nclass C:\n    '''Doc.'''\n    def f(self): ..."),
    "unpickling": ("m:pickle.loads", "from pickle import loads"),
    "banned_calls": ("m:torch.load", "from torch import load as read\nread('x')"),
    "annotated": ("m.C.f", "class C:\n    def f(self, a) -> None: ..."),
}

KEPT = {
    "file_lines": many("x = 1", 300),
    "function_lines": "def f():\n    '''Doc.\n\n    More.\n    '''\n" + many("    x = 1", 40),
    "class_lines": "class C:\n" + many("    x = 1", 249),
    "parameters": "class C:\n    def f(self, a, b, c, d, e, g): ...\n@app.command()\ndef h(a, b, c, d, e, f, g): ...",
    "inheritance": "class A(Exception): ...\nclass B(A): ...\nclass C(A, Generic[T]): ...",
    "imports_in_functions": "import json\nif True:\n    import os",
    "docstrings": "'''Doc.'''\nclass _C:\n    def f(self): ...\ndef _g(): ...",
    "unpickling": "import numpy\nnumpy.load('x', allow_pickle=False)",
    "banned_calls": "model.eval()\nsafetensors.torch.load(b'')",
    "annotated": "class C:\n    def f(self, *a: int, b: str = '') -> None: ...",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_finds_what_breaks_it(rule: str) -> None:
    key, text = BROKEN[rule]
    assert key in {found.key for found in RULES[rule]([sample(text)])}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_leaves_the_rest_alone(rule: str) -> None:
    assert not list(RULES[rule]([sample(KEPT[rule])]))


def sample(text: str) -> Module:
    return parse("m", text)
