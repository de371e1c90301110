"""The budgets and bans of this project, each a function from modules to the places that break it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence

from tests.architecture.sources import (
    Definition,
    Finding,
    Function,
    Module,
    classes,
    decorators,
    definitions,
    functions,
    imported,
    resolved,
)

FILE_LINES = 300
FUNCTION_LINES = 40
CLASS_LINES = 250
PARAMETERS = 6
INHERITANCE = 2
INHERITANCE_OF_ERRORS = 4

UNPICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
BANNED_CALLS = {"eval", "hasattr", "torch.load"}

Rule = Callable[[Sequence[Module]], Iterator[Finding]]


def file_lines(modules: Sequence[Module]) -> Iterator[Finding]:
    """A file is read at one sitting."""
    for module in modules:
        lines = len(module.text.splitlines())
        if lines > FILE_LINES:
            yield Finding(module.name, f"{lines} lines, at most {FILE_LINES}")


def function_lines(modules: Sequence[Module]) -> Iterator[Finding]:
    """A function's body, without its docstring, fits on a screen."""
    for module in modules:
        for name, node, _ in functions(module):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > FUNCTION_LINES:
                yield Finding(name, f"{lines} lines, at most {FUNCTION_LINES}")


def class_lines(modules: Sequence[Module]) -> Iterator[Finding]:
    """A class has one job."""
    for module in modules:
        for name, node in classes(module):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > CLASS_LINES:
                yield Finding(name, f"{lines} lines, at most {CLASS_LINES}")


def parameters(modules: Sequence[Module]) -> Iterator[Finding]:
    """More than six parameters are a frozen spec; a click command has one for each of its options."""
    for module in modules:
        for name, node, owner in functions(module):
            given = node.args
            count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
            count += (given.vararg is not None) + (given.kwarg is not None)
            bound = isinstance(owner, ast.ClassDef) and "staticmethod" not in decorators(node)
            if count - bound > PARAMETERS and not decorators(node) & {"command", "group"}:
                yield Finding(name, f"{count - bound} parameters, at most {PARAMETERS}")


def inheritance(modules: Sequence[Module]) -> Iterator[Finding]:
    """At most two of the project's own classes stand on one another, of the errors four."""
    bases: dict[str, list[str]] = {}
    for module in modules:
        names = {name.rpartition(".")[2]: name for name, _ in classes(module)} | imported(module)
        bases |= {name: [resolved(base, names) for base in node.bases] for name, node in classes(module)}

    def depth(name: str) -> int:
        return 1 + max(map(depth, bases[name]), default=0) if name in bases else 0

    for name in bases:
        limit = INHERITANCE_OF_ERRORS if name.startswith("foedus.domain.errors.") else INHERITANCE
        if depth(name) > limit:
            yield Finding(name, f"{depth(name)} classes deep, at most {limit}")


def imports_in_functions(modules: Sequence[Module]) -> Iterator[Finding]:
    """What a module needs stands at its top."""
    for module in modules:
        for name, node, _ in functions(module):
            if any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in own_nodes(node)):
                yield Finding(name, "imports inside the function")


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Everything inside a definition that is not inside another one in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition):
            yield child
            yield from own_nodes(child)


def docstrings(modules: Sequence[Module]) -> Iterator[Finding]:
    """Every module, and every public class, function and method, says what it is."""
    for module in modules:
        if not ast.get_docstring(module.tree):
            yield Finding(module.name, "the module has no docstring")
        for name, node, owner in definitions(module):
            exempt = isinstance(owner, Function) or decorators(node) & {"overload", "setter"}
            private = any(part.startswith("_") for part in name.removeprefix(module.name).split("."))
            if not exempt and not private and not ast.get_docstring(node):
                yield Finding(name, "it is public and has no docstring")


def unpickling(modules: Sequence[Module]) -> Iterator[Finding]:
    """Nothing is ever unpickled."""
    for module in modules:
        for name in sorted(set(imported(module).values())):
            if name.partition(".")[0] in UNPICKLERS:
                yield Finding(f"{module.name}:{name}", "imports an unpickler")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_false(node.value):
                yield Finding(f"{module.name}:allow_pickle", f"line {node.value.lineno}")


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def banned_calls(modules: Sequence[Module]) -> Iterator[Finding]:
    """No ``eval``, ``hasattr`` or ``torch.load``, by whatever name they were imported."""
    for module in modules:
        names = imported(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name | ast.Attribute) and resolved(node, names) in BANNED_CALLS:
                yield Finding(f"{module.name}:{resolved(node, names)}", f"line {node.lineno}")


def annotated(modules: Sequence[Module]) -> Iterator[Finding]:
    """Every parameter and every result has a type."""
    for module in modules:
        for name, node, owner in functions(module):
            given = [*node.args.posonlyargs, *node.args.args]
            if isinstance(owner, ast.ClassDef) and "staticmethod" not in decorators(node):
                given = given[1:]
            given += [*node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
            if node.returns is None or any(argument.annotation is None for argument in given):
                yield Finding(name, "it is not fully annotated")


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        file_lines,
        function_lines,
        class_lines,
        parameters,
        inheritance,
        imports_in_functions,
        docstrings,
        unpickling,
        banned_calls,
        annotated,
    )
}
