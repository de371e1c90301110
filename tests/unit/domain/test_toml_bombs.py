"""Case 44: what a TOML file may be, and that nothing in it names code, a file to include or a variable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from foedus.domain.errors import ConfigError
from foedus.domain.plan import ModelManifest
from foedus.domain.run import parse_spec
from foedus.domain.table import TOML_LIMIT, override, read_toml
from foedus.strategies.catalogue import build
from foedus.strategies.strategy import RunContext
from tests.unit.coordinator.scene import spec

BOMBS = {
    "deep arrays": "a = " + "[" * 100_000,
    "deep tables": "a = " + "{a=" * 2000 + "1" + "}" * 2000,
    "a key of many parts": ".".join("a" * 50_000) + " = 1",
    "a heading of many parts": "[" + "a . " * 20_000 + "a]",
    "quoted parts": '"a".' * 20_000 + '"a" = 1',
    "many headings of many parts": "\n".join(f"[{'a.' * 70}b{number}]" for number in range(1000)),
    "large": "#" * (TOML_LIMIT + 1),
    "no UTF-8": "a = 'é'",
    "YAML with a tag": "!!python/object/apply:os.system ['true']",
    "YAML with anchors": "a: &a [1]\nb: *a",
    "an unfinished string": 'a = "',
}


@pytest.mark.parametrize("name", BOMBS)
def test_case_44_a_bomb_is_refused_before_it_grows(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(BOMBS[name].encode("latin-1" if name == "no UTF-8" else "utf-8"))
    began = time.process_time()
    with pytest.raises(ConfigError) as refused:
        read_toml(path)
    assert refused.value.code == "config_malformed"
    assert len(str(refused.value)) < 2000
    assert time.process_time() - began < 5


def test_case_44_words_that_go_on_are_read_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("# " + "a" * (TOML_LIMIT - 100) + "\nrounds = 3\n")
    assert read_toml(path) == {"rounds": 3}


def test_case_44_text_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the environment, no home and no include is put in place of anything."""
    monkeypatch.setenv("SECRET", "s3cr3t")
    path = tmp_path / "run.toml"
    path.write_text('a = "${SECRET} $SECRET %SECRET% ~/x"\ninclude = "../../etc/passwd"\n')
    assert read_toml(path) == {"a": "${SECRET} $SECRET %SECRET% ~/x", "include": "../../etc/passwd"}


@pytest.mark.parametrize("name", ["os.system", "foedus.strategies.fedavg", "__import__('os')", "../fedavg", "FedAvg"])
def test_case_44_strategies_schedules_and_optimizers_are_names_of_a_list(name: str) -> None:
    """Nothing that a run names is imported by the name it has."""
    for changes in (
        {"strategy": {"name": name}},
        {"schedule": {"name": name}},
        {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "server": {"optimizer": name}}},
        {"strategy": {"name": "fedavg", "local": {"lr": 0.1}, "aggregator": {"name": name}}},
    ):
        with pytest.raises(ConfigError):
            _built({**spec(2, 1), **changes})


@pytest.mark.parametrize("key", ["include", "plugins", "class", "_target_", "env", "!python"])
def test_case_44_keys_that_are_not_known_are_refused(key: str) -> None:
    with pytest.raises(ConfigError):
        parse_spec({**spec(2, 1), key: "os.system"})


def test_case_44_an_override_that_is_a_bomb_is_text() -> None:
    table: dict[str, object] = {}
    override(table, "a", "[" * 100_000)
    assert table == {"a": "[" * 100_000}


def _built(table: dict[str, Any]) -> None:
    build(RunContext(parse_spec(table), ModelManifest((), {"loss": "min"})))
