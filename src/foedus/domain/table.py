"""Tables from outside (TOML, options) as strict, frozen values, or a refusal that names every wrong key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foedus.domain.errors import ConfigError
from foedus.domain.names import NAME

Model = TypeVar("Model", bound=BaseModel)


class Table(BaseModel):
    """A table of run.toml: strict, frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


PositiveInt = Annotated[int, Field(ge=1, le=2**53)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
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
        "config_refused", f"{where} is refused: {'; '.join(complaints)}.", "", "Correct the keys named and try again."
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        ConfigError: ``config_missing`` or ``config_malformed``.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "config_missing", f"{path} cannot be read.", error.strerror or "", "`foedus new DIR` makes one that runs."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config_malformed", f"{path} is not TOML.", str(error), "Correct that line.") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean `x`?`` for the nearest known word, or nothing.

    >>> nearest("fedavgg", ["fedavg", "fedprox"])
    ' Did you mean `fedavg`?'
    """
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean `{match[0]}`?" if match else ""


def _complaint(model: type[BaseModel], problem: Any) -> str:
    path = [str(step) for step in problem["loc"]]
    key = ".".join(path) or "(top)"
    if problem["type"] == "extra_forbidden":
        fields = _fields(model, path[:-1])
        return f"`{key}` is not a key; allowed: {', '.join(sorted(fields))}.{nearest(path[-1], fields)}"
    got = "" if problem["type"] == "missing" else f" (got {_short(problem.get('input'))})"
    message = problem["msg"].removeprefix("Value error, ")
    return f"`{key}`: {message[:1].lower()}{message[1:]}{got}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _fields(model: type[BaseModel], path: list[str]) -> set[str]:
    for step in path:
        field = model.model_fields.get(step)
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        inner = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return set()
        model = inner[0]
    return set(model.model_fields)
