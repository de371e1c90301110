"""Settings: arguments, then the environment, then a file, then defaults; nothing leaves the machine without TLS."""

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
    assert read_settings({"port": 0}).port == 0
    assert read_settings({"folder": tmp_path / "other", "host": "localhost"}).folder == tmp_path / "other"


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "coordinator.example.org", "localhost.example.org"])
def test_an_address_that_others_reach_needs_tls(host: str, tmp_path: Path) -> None:
    with pytest.raises(AccessError) as refusal:
        read_settings({"host": host})
    assert refusal.value.code == "tls_required"
    settings = read_settings({"host": host, "tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"})
    assert settings.url.startswith("https://")


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_settings({"tls_cert": tmp_path / "cert.pem"})
    with pytest.raises(ConfigError):
        read_settings({"tls_key": tmp_path / "key.pem"})


@pytest.mark.parametrize("port", ["", "http", "-1", "65536", "٨٠", "8" * 100])
def test_a_port_that_is_none_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_COORDINATOR_PORT", port)
    with pytest.raises(ConfigError) as refusal:
        read_settings()
    assert refusal.value.code == "settings_refused"


def test_a_file_is_below_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "coordinator.toml"
    config.write_text('folder = "here"\nport = 9000\nhost = "localhost"\ndatabase = "postgresql://u:secret@h/n"\n')
    monkeypatch.setenv("FOEDUS_COORDINATOR_CONFIG", str(config))
    monkeypatch.setenv("FOEDUS_COORDINATOR_PORT", "9001")
    settings = read_settings({"host": "::1"})
    assert (settings.host, settings.port, settings.folder) == ("::1", 9001, Path("here").absolute())
    assert settings.database_url == "postgresql://u:secret@h/n" and not settings.embedded
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        "prot = 1",
        'port = "http"',
        'database = ["secret"]',
        "folder = 3",
        "replica = 'a b'",
        "connections = 0",
        "x =",
        "\0",
    ],
)
def test_a_file_that_is_wrong_is_refused_without_its_values(text: str, tmp_path: Path) -> None:
    config = tmp_path / "coordinator.toml"
    config.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        read_settings({"config": config})
    assert refusal.value.code in ("settings_refused", "settings_unreadable")
    assert "secret" not in f"{refusal.value} {refusal.value.why}"


def test_without_a_database_the_folder_has_one(tmp_path: Path) -> None:
    settings = read_settings({"folder": tmp_path})
    assert settings.database_url == f"sqlite:///{tmp_path}/coordinator.db" and settings.embedded
    assert settings.replica != read_settings({"folder": tmp_path}).replica
