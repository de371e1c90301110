"""Tables from outside (TOML, options) as strict, frozen values, or a refusal that names every wrong key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foedus.domain.errors import ConfigError
from foedus.domain.names import NAME

TOML_LIMIT = 256 << 10
"""Bytes of the largest TOML file that is read."""

DOTTED = re.compile(rb"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){64}""")
"""A key of so many parts: the parser's time for one grows with the square of their number."""

Model = TypeVar("Model", bound=BaseModel)


class Table(BaseModel):
    """A table of run.toml: strict, frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


NUMBER = "number"
"""Tags a plain number where a table may stand in its place."""

_QUOTED = re.compile(r"'([^']*)'")

PositiveInt = Annotated[int, Field(ge=1, le=2**53)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Text = Annotated[str, Field(max_length=4096)]


def validate(model: type[Model], table: Mapping[str, Any], where: str) -> Model:
    """``table`` as a ``model``, or a :class:`ConfigError` that names every wrong key."""
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        complaints = [_complaint(model, problem) for problem in error.errors(include_url=False)]
    raise ConfigError(
        "config_refused", f"{where} is refused: {_joined(complaints)}", "", "Correct the keys named and try again."
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        ConfigError: ``config_missing`` or ``config_malformed``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(TOML_LIMIT + 1)
        if len(content) > TOML_LIMIT or DOTTED.search(content):
            why = f"It is larger than {TOML_LIMIT >> 10} KiB, or has a key of 64 parts or more."
            raise ConfigError("config_malformed", f"{path} is too much to read.", why, "Make it smaller.")
        return tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            "config_missing", f"{path} cannot be read.", error.strerror or "", "`foedus new DIR` makes one that runs."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("config_malformed", f"{path} is not TOML.", str(error)[:500], "Correct that line.") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean `x`?`` for the nearest known word, or nothing.

    >>> nearest("fedavgg", ["fedavg", "fedprox"])
    ' Did you mean `fedavg`?'
    """
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean `{match[0]}`?" if match else ""


def override(table: dict[str, Any], key: str, value: object) -> None:
    """Set a key such as ``strategy.local.lr`` in a run's table; text is read as TOML where it is TOML.

    Raises:
        ConfigError: ``override_refused``.
    """
    *path, last = key.split(".")
    for step in path:
        inner = table.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                "override_refused",
                f"`{key}` goes through `{step}`, which is not a table.",
                f"`{step}` has a value of its own.",
                f"Set `{step}`, or correct the key.",
            )
        table = inner
    table[last] = _value(value) if isinstance(value, str) else value


def _value(text: str) -> Any:
    """A TOML value where it is one, and the text itself where it is not."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table with its inner tables' keys in full.

    >>> flat({"rounds": 2, "cohort": {"size": 4}})
    {'rounds': 2, 'cohort.size': 4}
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _joined(complaints: Sequence[str]) -> str:
    """Complaints in a row; a question ends with its own mark.

    >>> _joined(["a is wrong", "b is not a key. Did you mean `c`?", "d is wrong"])
    'a is wrong; b is not a key. Did you mean `c`? d is wrong.'
    """
    ends = [";"] * (len(complaints) - 1) + ["."]
    return " ".join(text if text.endswith("?") else text + end for text, end in zip(complaints, ends, strict=True))


def _complaint(model: type[BaseModel], problem: Any) -> str:
    path, tables = _walk(model, [str(step) for step in problem["loc"]])
    key = ".".join(path) or "(top)"
    if problem["type"] == "extra_forbidden":
        fields = {name for table in tables for name in table.model_fields}
        return f"`{key}` is not a key; allowed: {', '.join(sorted(fields))}{_or(path[-1], fields)}"
    if problem["type"] == "union_tag_invalid":
        name, known = problem["ctx"]["tag"], _QUOTED.findall(problem["ctx"]["expected_tags"])
        there_are = ", ".join(sorted(set(known) - {NUMBER}))
        return f"`{key}.name`: there is no {_short(name)}; there are: {there_are}{_or(name, known)}"
    if problem["type"] == "literal_error":
        allowed = problem["ctx"]["expected"]
        near = _or(str(problem["input"])[:80], _QUOTED.findall(allowed))
        return f"`{key}`: input should be {allowed} (got {_short(problem['input'])}){near}"
    got = "" if problem["type"] == "missing" else f" (got {_short(problem.get('input'))})"
    message = "this is not one of its tables" if problem["type"] == "union_tag_not_found" else problem["msg"]
    message = message.removeprefix("Value error, ")
    return f"`{key}`: {message[:1].lower()}{message[1:]}{got}"


def _or(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f".{near}" if near else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _walk(model: type[BaseModel], location: list[str]) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys on the way to a problem, without the names by which pydantic tells tables apart, and the last tables."""
    path, tables, inner = list[str](), [model], [model]
    for step in location:
        fields = [table.model_fields[step] for table in inner if step in table.model_fields]
        named = [table for table in inner if _named(table) == step]
        if not fields and (named or (inner and step == NUMBER)):
            inner = named
            continue
        path.append(step)
        tables, inner = inner, [table for field in fields for table in _tables(field.annotation)]
    return path, tables


def _named(table: type[BaseModel]) -> str:
    """What tells a table from others: its title, or the one name that it may have; empty where it may have any."""
    if title := table.model_config.get("title"):
        return title
    field = table.model_fields.get("name")
    names = get_args(field.annotation) if field else ()
    return names[0] if len(names) == 1 and isinstance(names[0], str) else ""


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """The tables that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for inner in get_args(annotation) for table in _tables(inner)]
