"""What a plan's ``options.json`` says of its own options: a JSON schema, as far as it is listed here, and no further.

A schema that says more is refused, so that nobody relies on a rule that nobody holds.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from foedus.domain.errors import ConfigError, PlanError
from foedus.domain.plain import Json
from foedus.domain.plan import PlanBundle
from foedus.domain.table import Table, Text, validate

SCHEMA = "options.json"
WHERE = "[strategy.local.options]"
OPTION = re.compile(r"[a-z][a-z0-9_]{0,62}")
TYPES: Mapping[str, type] = {"boolean": bool, "integer": int, "number": float, "string": str}

Plain = bool | int | float | str
Check = Callable[[Mapping[str, Json]], Mapping[str, Json]]


class OptionTable(Table):
    """One option: its type, its bounds or the values that it may have, and its value where none is given."""

    type: Literal["boolean", "integer", "number", "string"]
    description: Text = ""
    default: Plain | None = None
    minimum: float | None = None
    maximum: float | None = None
    enum: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None


class SchemaTable(Table):
    """The whole: options by name. One that is neither ``required`` nor has a default may be missing."""

    model_config = ConfigDict(populate_by_name=True)

    dialect: Annotated[Text, Field(alias="$schema")] = ""
    type: Literal["object"] = "object"
    title: Text = ""
    description: Text = ""
    properties: Annotated[dict[str, OptionTable], Field(max_length=200)]
    required: Annotated[list[str], Field(default_factory=list)]
    closed: Annotated[Literal[False], Field(alias="additionalProperties")] = False


class _Options(Table):
    model_config = ConfigDict(protected_namespaces=(), allow_inf_nan=False)


def check_of(bundle: PlanBundle) -> Check:
    """What checks a run's options of this plan, and fills in defaults; any do where the plan says nothing of them.

    Raises:
        PlanError: ``plan_options_malformed``.
    """
    content = bundle.files.get(SCHEMA)
    if content is None:
        return dict
    model = _model(content)

    def check(options: Mapping[str, Json]) -> Mapping[str, Json]:
        found = validate(model, options, WHERE).model_dump()
        return {name: value for name, value in found.items() if value is not None}

    return check


def _model(content: bytes) -> type[Table]:
    try:
        table = json.loads(content)
        if not isinstance(table, dict):
            raise _malformed("It is not an object.")
        schema = validate(SchemaTable, table, SCHEMA)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{type(error).__name__}.") from error
    except ConfigError as error:
        raise error if isinstance(error, PlanError) else _malformed(error.what) from error
    for name in (*schema.properties, *schema.required):
        if not OPTION.fullmatch(name) or keyword.iskeyword(name) or name in dir(BaseModel):
            raise _malformed(f"{name!r:.80} is no name for an option: letters, digits and `_`, in lower case.")
    if unknown := set(schema.required) - set(schema.properties):
        raise _malformed(f"It requires {min(unknown)!r:.80}, of which it says nothing.")
    fields: dict[str, Any] = {name: _field(name, option, schema) for name, option in schema.properties.items()}
    model: type[Table] = create_model("PlanOptions", __base__=_Options, **fields)
    given = {name: option.default for name, option in schema.properties.items() if option.default is not None}
    try:
        create_model("Defaults", __base__=_Options, **{name: fields[name] for name in given}).model_validate(given)
    except ValueError as error:
        raise _malformed("A default is not what it says options are.") from error
    return model


def _field(name: str, option: OptionTable, schema: SchemaTable) -> tuple[Any, Any]:
    if option.enum is not None and option.type != "string":
        raise _malformed(f"`{name}` has `enum`, and is no string.")
    kind: Any = TYPES[option.type] if option.enum is None else Literal[tuple(option.enum)]
    if option.type in ("integer", "number"):
        kind = Annotated[kind, Field(ge=option.minimum, le=option.maximum)]
    elif option.minimum is not None or option.maximum is not None:
        raise _malformed(f"`{name}` has a bound, and is no number.")
    if name in schema.required:
        return kind, ...
    return (kind, option.default) if option.default is not None else (kind | None, None)


def _malformed(why: str) -> PlanError:
    return PlanError(
        "plan_options_malformed",
        "The plan's options.json is not a schema of options.",
        why,
        "Give each of `properties` a type, and what bounds it; see docs/guides/plans.md.",
    )
