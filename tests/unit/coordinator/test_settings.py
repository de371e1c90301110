"""Settings come from arguments, then the environment, then defaults; nothing leaves the machine without TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from foedus.coordinator.settings import DEFAULT_PORT, read_settings
from foedus.domain.errors import AccessError, ConfigError


def test_defaults_stay_on_this_machine() -> None:
    settings = read_settings()
    assert (settings.host, settings.port, settings.tls_cert) == ("127.0.0.1", DEFAULT_PORT, None)
    assert settings.url == f"http://127.0.0.1:{DEFAULT_PORT}"
    assert settings.folder.is_absolute()


def test_arguments_win_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_COORDINATOR_FOLDER", str(tmp_path))
    monkeypatch.setenv("FOEDUS_COORDINATOR_HOST", "::1")
    monkeypatch.setenv("FOEDUS_COORDINATOR_PORT", "9000")
    settings = read_settings()
    assert (settings.folder, settings.url) == (tmp_path, "http://[::1]:9000")
    assert read_settings(port=0).port == 0
    assert read_settings(tmp_path / "other", "localhost").folder == tmp_path / "other"


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "coordinator.example.org", "localhost.example.org"])
def test_an_address_that_others_reach_needs_tls(host: str, tmp_path: Path) -> None:
    with pytest.raises(AccessError) as refusal:
        read_settings(host=host)
    assert refusal.value.code == "tls_required"
    settings = read_settings(host=host, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    assert settings.url.startswith("https://")


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_settings(tls_cert=tmp_path / "cert.pem")
    with pytest.raises(ConfigError):
        read_settings(tls_key=tmp_path / "key.pem")


@pytest.mark.parametrize("port", ["", "http", "-1", "65536", "٨٠", "8" * 100])
def test_a_port_that_is_none_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_COORDINATOR_PORT", port)
    with pytest.raises(ConfigError) as refusal:
        read_settings()
    assert refusal.value.code == "settings_refused"
