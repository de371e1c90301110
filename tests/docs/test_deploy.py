"""The files of deploy/: settings that exist, commands that are, proxies that let everything through."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import click
import httpx
import pytest

from foedus.cli import coordinator_migrate, coordinator_start, node
from foedus.coordinator.settings import PREFIX, Settings, read_settings
from foedus.node.settings import NodeSettings
from foedus.node.settings import read_settings as node_settings
from tests.federation import free_port, until
from tests.unit.coordinator.door import BOOT, Door, opened

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LONGEST_POLL = 60
COMMANDS = {"start": coordinator_start.command, "migrate": coordinator_migrate.command}


def _parses(words: list[str]) -> None:
    """Whether a command line is one of `foedus coordinator`."""
    command: click.Command = COMMANDS[words[0]]
    command.make_context(words[0], words[1:])


def _of_a_node(verb: str, words: list[str]) -> None:
    """Whether a command line is one of `foedus node`."""
    command = node.command.get_command(click.Context(node.command), verb)
    assert command is not None
    command.make_context(verb, [*words])


def test_every_setting_in_the_example_is_one_and_is_valid(tmp_path: Path) -> None:
    text = (DEPLOY / "coordinator.toml").read_text()
    assert read_settings({"config": _written(tmp_path / "as-it-is.toml", text)}).folder.is_absolute()
    everything = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)
    rows = [line for line in everything.splitlines() if re.match(r"\w+ = ", line)]
    last = {line.split(" = ")[0]: line for line in rows}
    assert set(tomllib.loads("\n".join(last.values()))) == set(last)
    settings = read_settings({"config": _written(tmp_path / "all.toml", "\n".join(last.values()))})
    assert settings.database.startswith("postgresql+psycopg://") and settings.blobs.startswith("s3://")


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _variables(text: str) -> set[str]:
    return set(re.findall(rf"{PREFIX}(\w+)", text))


@pytest.mark.parametrize("name", ["coordinator.env", "compose.yaml", "coordinator.toml"])
def test_every_variable_is_a_setting(name: str) -> None:
    known = {one.name.upper() for one in fields(Settings)} | {"CONFIG"}
    assert _variables((DEPLOY / name).read_text()) <= known


def test_the_unit_starts_a_coordinator_that_may_hold_many_connections() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "foedus-coordinator.service")
    service = unit["Service"]
    program, noun, *words = service["ExecStart"].split()
    assert (Path(program).name, noun) == ("foedus", "coordinator")
    _parses(words)
    assert int(service["LimitNOFILE"]) >= 10_000
    assert service["ProtectSystem"] == "strict"
    settings = tomllib.loads((DEPLOY / "coordinator.toml").read_text())
    assert settings["folder"].startswith(f"/var/lib/{service['StateDirectory']}/"), "it may write nowhere else"
    if program := shutil.which("systemd-analyze"):
        told = subprocess.run(
            [program, "verify", DEPLOY / "foedus-coordinator.service"], capture_output=True, text=True
        )
        assert [line for line in told.stderr.splitlines() if "service" in line and "not executable" not in line] == []


def test_the_image_copies_what_is_there_and_runs_a_command_that_is() -> None:
    lines = (DEPLOY / "Containerfile").read_text().replace("\\\n", "")
    copied = [word for line in re.findall(r"^COPY (.*)$", lines, re.MULTILINE) for word in line.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    noun = json.loads(re.findall(r"^ENTRYPOINT (.*)$", lines, re.MULTILINE)[0])
    assert noun == ["foedus", "coordinator"]
    _parses(json.loads(re.findall(r"^CMD (.*)$", lines, re.MULTILINE)[0]))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\.\[([\w,]+)\]", lines)[0].split(",")) <= set(extras)


def _unit(name: str) -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / name)
    return unit["Service"]


def test_the_node_s_unit_drains_it_and_lets_plans_be_held() -> None:
    service = _unit("foedus-node.service")
    for key in ("ExecStart", "ExecReload"):
        program, noun, verb, *words = service[key].split()
        assert (Path(program).name, noun) == ("foedus", "node")
        _of_a_node(verb, words)
        assert words[words.index("--home") + 1] == f"/var/lib/{service['StateDirectory']}", "it may write nowhere else"
    assert service["KillMode"] == "mixed", "work processes are not to hear SIGTERM"
    drain = dict(line.split("=") for line in [service["Environment"]])["FOEDUS_NODE_DRAIN_SECONDS"]
    assert node_settings({"FOEDUS_NODE_DRAIN_SECONDS": drain}).drain_seconds < int(service["TimeoutStopSec"])
    assert service["Restart"] == "on-failure", "a node that was drained stays so"
    hiding = {"RestrictNamespaces", "ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "PrivateUsers"}
    assert not hiding & set(service), "bubblewrap needs namespaces and a whole /proc"
    if program := shutil.which("systemd-analyze"):
        told = subprocess.run([program, "verify", DEPLOY / "foedus-node.service"], capture_output=True, text=True)
        assert [line for line in told.stderr.splitlines() if "service" in line and "not executable" not in line] == []


def test_every_variable_of_a_node_is_a_setting_and_is_valid() -> None:
    text = (DEPLOY / "node.env").read_text()
    found = dict(re.findall(r"^# (FOEDUS_NODE_\w+)=(.*)$", text, re.MULTILINE))
    assert {name.removeprefix("FOEDUS_NODE_").lower() for name in found} <= set(NodeSettings.model_fields)
    assert len(found) > 5 and node_settings(found)


def test_the_node_s_image_copies_what_is_there_and_runs_a_command_that_is() -> None:
    lines = (DEPLOY / "Containerfile.node").read_text().replace("\\\n", "")
    copied = [word for line in re.findall(r"^COPY (.*)$", lines, re.MULTILINE) for word in line.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", lines, re.MULTILINE)[0]) == ["foedus", "node"]
    verb, *words = json.loads(re.findall(r"^CMD (.*)$", lines, re.MULTILINE)[0])
    _of_a_node(verb, words)
    assert "bubblewrap" in lines and "USER foedus" in lines


def test_the_composition_has_replicas_on_one_database_and_one_store() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    coordinator, migrate = services["coordinator"], services["migrate"]
    _parses(migrate["command"])
    assert coordinator["environment"] == migrate["environment"]
    assert {f"{PREFIX}DATABASE", f"{PREFIX}BLOBS"} <= set(coordinator["environment"])
    assert "ports" not in coordinator and "container_name" not in coordinator, "there are several of it"
    for service in services.values():
        needed = service.get("depends_on", {})
        assert set(needed) <= set(services)
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=", (DEPLOY / "example.env").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("nginx.conf", r"proxy_read_timeout (\d+)s"),
        ("nginx.conf", r"proxy_send_timeout (\d+)s"),
        ("haproxy.cfg", r"timeout client (\d+)s"),
        ("haproxy.cfg", r"timeout server (\d+)s"),
    ],
)
def test_proxies_wait_longer_than_a_poll(name: str, setting: str) -> None:
    found = re.findall(setting, (DEPLOY / name).read_text())
    assert found and all(int(seconds) > LONGEST_POLL + 10 for seconds in found)


def test_haproxy_takes_its_configuration() -> None:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("HAProxy is not installed; on Debian: apt-get install haproxy")
    checked = subprocess.run([program, "-c", "-f", DEPLOY / "haproxy.cfg"], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr


@contextmanager
def _behind_nginx(folder: Path, backend: str) -> Iterator[str]:
    """Nginx as deploy/nginx.conf has it, but for its places."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx-light")
    port, key, certificate = free_port(), folder / "key.pem", folder / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("/etc/foedus/tls/fullchain.pem", str(certificate)),
        ("/etc/foedus/tls/key.pem", str(key)),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8470", backend.removeprefix("http://")),
    ):
        assert old in text
        text = text.replace(old, new)
    places = [f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    head = f"pid {folder}/pid; error_log {folder}/error.log; daemon off; events {{ worker_connections 1024; }}"
    path = _written(folder / "nginx.conf", f"{head} http {{ access_log off; {' '.join(places)} {text} }}")
    with subprocess.Popen([program, "-c", path], stderr=subprocess.PIPE, user=None) as process:
        url = f"https://127.0.0.1:{port}"
        until("nginx listens", lambda: process.poll() is not None or _answers(url))
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", verify=_unverified(), trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_nginx_lets_polls_and_large_uploads_through_and_signatures_hold(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with opened(tmp_path / "coordinator") as inner, _behind_nginx(tmp_path, inner.url) as url:
        door = Door(url, None, inner.token, httpx.Client(verify=_unverified(), trust_env=False, timeout=60))
        with door.client:
            node = door.enrol("clinic-a")
            hello = json.dumps({"boot": BOOT, "version": "0"}).encode()
            assert door.signed(node, "POST", "/node/hello", hello).status_code == 200
            reply = door.signed(node, "POST", "/node/poll", json.dumps({"boot": BOOT, "wait": 2}).encode())
            assert reply.status_code == 200 and len(reply.headers["x-request-id"]) == 32
            digest = "0f1d9da9c1a2f9e1a9a0ac1a5bd8b1f8a3dd1e8f2cf8b5d1c5f3ee7a2b6d9e10"
            reply = door.ask("PUT", f"/blobs/{digest}", content=bytes(8 << 20))
            assert (reply.status_code, reply.json()["code"]) == (422, "digest_mismatch")
            assert door.client.get(f"{url}/metrics").status_code == 200
