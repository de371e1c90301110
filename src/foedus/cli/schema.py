"""``foedus schema``: the JSON Schema of run.toml, from the models that validate it."""

from __future__ import annotations

from typing import Any

import click

from foedus.cli.output import emit, json_option
from foedus.domain.run import RunSpec
from foedus.engine.json_text import to_json
from foedus.strategies.catalogue import CATALOGUE


def run_schema() -> dict[str, Any]:
    """The schema of run.toml; ``[strategy]`` is one of the catalogue's."""
    schema = RunSpec.model_json_schema()
    definitions = schema["$defs"]
    definitions.pop("StrategyTable")
    for name, listing in CATALOGUE.items():
        options = listing.options.model_json_schema()
        definitions |= options.pop("$defs", {})
        options["properties"] = {"name": {"const": name}, **options["properties"]}
        definitions[name] = {**options, "title": name, "required": ["name", *options.get("required", [])]}
    schema["properties"]["strategy"] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in CATALOGUE]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "run.toml"}


@click.command("schema")
@json_option
def command() -> None:
    """Print the JSON Schema of run.toml."""
    emit(run_schema(), to_json(run_schema(), indent=2))
