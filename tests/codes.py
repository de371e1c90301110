"""Every error code that the source can raise, found by reading it: the pages of `foedus explain` are held to these."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foedus.domain import errors
from foedus.domain.errors import FoedusError

SOURCE = Path(__file__).parents[1] / "src" / "foedus"
KINDS = frozenset(
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FoedusError)
)
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

TELLERS = {"failure", "withdraw"}
"""Functions that are given a failure's code, or a reason that begins with one."""

Function = ast.FunctionDef | ast.AsyncFunctionDef

COMPUTED: Mapping[str, tuple[str, ...]] = {
    "f'approval_{rule}'": (
        *("approval_dataset", "approval_strategy", "approval_rounds", "approval_expired", "approval_resources"),
    ),
    "f'http_{error.status_code}'": ("http_404", "http_405"),
    "f'http_{status}'": ("http_404", "http_502", "http_503", "http_504"),
    "f'run_{view.status}'": ("run_failed", "run_cancelled"),
}
"""Codes that are put together when they are raised: how that is written → what may come of it."""

PASSED_ON = frozenset({"error.code", "failures[0].code", "problem.code", "told[0]"})
"""An error told again under the code that it had."""


@dataclass
class Raised:
    """Where a code is raised: kinds of error, packages, and what is said there (of the first place)."""

    kinds: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """One call that makes an error, the functions around it, and its module."""

    call: ast.Call
    kind: str
    around: tuple[Function, ...]
    module: ast.Module


def raised() -> tuple[dict[str, Raised], list[str]]:
    """Every code → where and how it is raised; and the places whose code cannot be read."""
    found: dict[str, Raised] = {}
    unreadable = []
    for path, tree in modules().items():
        package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for place in _places(tree, (), tree):
            codes = _codes(place)
            if codes is None:
                unreadable.append(
                    f"{path.relative_to(SOURCE.parent)}:{place.call.lineno} {ast.unparse(place.call)[:80]}"
                )
            for code in codes or ():
                one = found.setdefault(code, Raised())
                one.kinds.add(place.kind)
                one.packages.add(package)
                one.said = one.said or tuple(map(_text, place.call.args[1:]))
        for code in _told(tree):
            found.setdefault(code, Raised()).packages.add(package)
    return found, unreadable


@functools.cache
def modules() -> Mapping[Path, ast.Module]:
    """Every module of the source."""
    return {path: ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def _places(node: ast.AST, around: tuple[Function, ...], module: ast.Module) -> Iterator[Place]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name | ast.Attribute):
            name = child.func.id if isinstance(child.func, ast.Name) else child.func.attr
            click = isinstance(child.func, ast.Attribute) and ast.unparse(child.func.value).startswith("click")
            if (name in KINDS or name == "Interrupted") and not click:
                yield Place(child, name if name in KINDS else "FoedusError", around, module)
        inner = (*around, child) if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else around
        yield from _places(child, inner, module)


def _codes(place: Place) -> frozenset[str] | None:
    """The codes that a place may raise: none where it passes another error on, None where they cannot be read."""
    given = place.call.args[0] if place.call.args else _keyword(place.call, "code")
    if given is None or ast.unparse(given) in PASSED_ON:
        return frozenset() if given is not None else None
    codes = _values(given, place.around, place.module)
    return codes if codes and all(map(CODE.fullmatch, codes)) else None


def _values(given: ast.expr, around: tuple[Function, ...], module: ast.Module) -> frozenset[str]:
    """What an expression may be: followed through choices, local names, f-strings and the callers of a helper."""
    if ast.unparse(given) in COMPUTED:
        return frozenset(COMPUTED[ast.unparse(given)])
    if isinstance(given, ast.Constant):
        return frozenset({str(given.value)})
    if isinstance(given, ast.IfExp):
        return _values(given.body, around, module) | _values(given.orelse, around, module)
    if isinstance(given, ast.JoinedStr):
        pieces = [
            _values(part.value if isinstance(part, ast.FormattedValue) else part, around, module)
            for part in given.values
        ]
        return frozenset(map("".join, itertools.product(*pieces)))
    if not isinstance(given, ast.Name) or not around:
        return frozenset()
    found: set[str] = set()
    for function in around:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and any(given.id in _names(target) for target in node.targets):
                found |= _assigned(node, given.id, around, module)
        parameters = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        if given.id in parameters:
            found |= _from_callers(function.name, parameters.index(given.id), given.id, module)
    return frozenset(found)


def _assigned(node: ast.Assign, name: str, around: tuple[Function, ...], module: ast.Module) -> frozenset[str]:
    target = next(each for each in node.targets if name in _names(each))
    if not isinstance(target, ast.Tuple):
        return _values(node.value, around, module)
    at = _names(target).index(name)
    halves = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
    tuples = [half for half in halves if isinstance(half, ast.Tuple)]
    return frozenset(code for half in tuples for code in _values(half.elts[at], around, module))


def _names(target: ast.expr) -> list[str]:
    elements = target.elts if isinstance(target, ast.Tuple) else [target]
    return [element.id if isinstance(element, ast.Name) else "" for element in elements]


def _from_callers(function: str, position: int, name: str, module: ast.Module) -> set[str]:
    """What the callers of a helper give for its parameter; callers elsewhere count where its name is public."""
    found: set[str] = set()
    for tree in [module] if function.startswith("_") else modules().values():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            given = call.args[position] if len(call.args) > position else _keyword(call, name)
            if _called(call) == function and isinstance(given, ast.Constant | ast.IfExp):
                found |= _values(given, (), tree)
    return found


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _told(tree: ast.Module) -> Iterator[str]:
    """Codes of failures that are told and not raised: the node's sentences, and texts that begin with a code."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and _names(node.targets[0]) == ["SENTENCES"]
            and isinstance(node.value, ast.Dict)
        ):
            yield from (str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))
        if isinstance(node, ast.Call):
            given = [_keyword(node, "code"), *(node.args if _called(node) in TELLERS else ())]
            texts = [str(one.value).partition(":")[0] for one in given if isinstance(one, ast.Constant)]
            yield from (text for text in texts if CODE.fullmatch(text) and "_" in text)


def _text(argument: ast.expr) -> str:
    """What an argument says: constants as they are, computed parts as three dots."""
    if isinstance(argument, ast.Constant):
        return str(argument.value)
    if isinstance(argument, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in argument.values)
    if isinstance(argument, ast.BinOp):
        return _text(argument.left) + _text(argument.right)
    return "…"
