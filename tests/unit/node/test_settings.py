"""Where a node's home is, and its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.domain.errors import ConfigError
from foedus.node.settings import NodeSettings, node_home, read_settings


def test_a_home_that_is_given_wins(tmp_path: Path) -> None:
    assert node_home(tmp_path, {"FOEDUS_NODE_HOME": "/elsewhere"}) == tmp_path


def test_the_environment_names_the_home(tmp_path: Path) -> None:
    assert node_home(None, {"FOEDUS_NODE_HOME": str(tmp_path)}) == tmp_path


def test_without_either_the_home_is_in_the_user_s_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert node_home(None, {}) == tmp_path / "foedus" / "node"


def test_settings_come_from_the_environment() -> None:
    settings = read_settings({"FOEDUS_NODE_IDLE_LIMIT": "5", "FOEDUS_NODE_WORKERS": "3", "FOEDUS_NODE_HOME": "/a"})
    assert settings == NodeSettings(idle_limit=5.0, workers=3)


def test_a_setting_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="workers"):
        read_settings({"FOEDUS_NODE_WORKERS": "0"})
