"""The reference names every variable, exit code and key that there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from foedus.coordinator.settings import Settings
from foedus.domain import errors
from foedus.domain.errors import FoedusError
from foedus.node.settings import PREFIX, NodeSettings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "command-line.md").read_text()


def _variables_in_source() -> set[str]:
    texts = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
    found = {name for text in texts for name in re.findall(r"FOEDUS_[A-Z]+(?:_[A-Z]+)*\b", text)}
    of_nodes = {PREFIX + name.upper() for name in NodeSettings.model_fields}
    of_coordinators = {f"FOEDUS_COORDINATOR_{field.name.upper()}" for field in fields(Settings)}
    return {name for name in found | of_nodes | of_coordinators if name not in {"FOEDUS_COMPLETE", "FOEDUS_NODE"}}


def test_every_variable_is_documented_and_every_documented_variable_is_there() -> None:
    assert set(re.findall(r"FOEDUS_[A-Z_]*[A-Z]", REFERENCE)) == _variables_in_source()


def test_every_exit_code_is_documented() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FoedusError)]
    codes = {kind.exit_code for kind in kinds} | {0, 2}
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", REFERENCE, re.MULTILINE)}
    assert codes == documented
    assert max(codes) <= 125


def test_decisions_are_numbered_without_a_gap_and_say_their_number() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [record.name[:5] for record in records] == [f"{number:04}-" for number in range(1, len(records) + 1)]
    assert all(record.read_text().startswith(f"# {int(record.name[:4])}. ") for record in records)
