"""The JSON Schema of run.toml is the documented one, and knows every strategy."""

from __future__ import annotations

import json

from foedus.cli.schema import run_schema
from foedus.strategies.catalogue import CATALOGUE
from tests.unit.cli.conftest import ROOT


def test_the_documented_schema_is_the_code_s(run) -> None:
    assert run("schema").out == (ROOT / "docs" / "reference" / "run.schema.json").read_text()


def test_the_envelope_holds_the_schema(run) -> None:
    assert run("schema", "--json").envelope["data"] == run_schema()


def test_every_strategy_and_every_reference_is_there() -> None:
    schema = run_schema()
    assert {choice["$ref"] for choice in schema["properties"]["strategy"]["oneOf"]} == {
        f"#/$defs/{name}" for name in CATALOGUE
    }
    text = json.dumps(schema)
    references = [part.partition('"')[0] for part in text.split('"#/$defs/')[1:]]
    assert set(references) == set(schema["$defs"])
    assert schema["$defs"]["fedavg"]["required"][0] == "name"
