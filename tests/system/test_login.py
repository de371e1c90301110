"""Logins through a real OpenID Connect provider: a browser's with PKCE, and a terminal's."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from foedus.coordinator.login_settings import Grant, Login
from tests.federation import free_port, until
from tests.login_provider import Browser, login_provider
from tests.unit.coordinator.door import Door, code, opened


@dataclass
class Site:
    """A coordinator with a login provider, and browsers."""

    door: Door
    issuer: str
    browsers: list[Browser] = field(default_factory=list)

    def browser(self, name: str) -> Browser:
        self.browsers.append(found := Browser(name))
        return found

    def log_in(self, browser: Browser) -> httpx.Response:
        """To the provider and back."""
        there = browser.open(f"{self.door.url}/login", f"{self.door.url}/login/callback")
        assert there.is_redirect, there.text
        return browser.client.get(there.headers["location"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("login"), free_port()
    here = f"http://127.0.0.1:{port}"
    with login_provider(f"{here}/login/callback", folder / "provider.log") as provider:
        grants = (Grant("groups", "researchers", "clinic", "researcher"), Grant("groups", "admins", "clinic", "admin"))
        settings = Login(provider.issuer, "foedus", url=here, scopes="openid profile groups", grants=grants)
        with opened(folder / "coordinator", port=port, login=settings) as door:
            yield (found := Site(door, provider.issuer))
            for browser in found.browsers:
                browser.close()


def test_a_browser_logs_in_with_pkce_and_its_session_reads_and_ends(site: Site) -> None:
    browser = site.browser("ada")
    page = site.log_in(browser)
    assert page.status_code == 200 and "logged in as <b>ada</b>" in page.text
    assert page.headers["content-security-policy"] == "default-src 'none'"
    (cookie,) = [value for value in page.headers.get_list("set-cookie") if value.startswith("foedus-session=")]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    who = browser.client.get(f"{site.door.url}/api/v1/whoami").json()
    assert (who["name"], who["role"]) == ("ada", "researcher")
    secret = browser.client.cookies["foedus-session"]
    assert site.door.ask("GET", "/runs", token=secret).status_code == 200
    out = browser.client.post(f"{site.door.url}/api/v1/logout", headers={"Origin": site.door.url})
    assert out.status_code == 200
    assert site.door.ask("GET", "/runs", token=secret).status_code == 401
    assert "foedus-session" not in browser.client.cookies


def test_case_54_another_site_s_page_can_do_nothing_with_a_session(site: Site) -> None:
    """CSRF: neither without an origin, nor with a foreign one, nor with one that merely looks like ours."""
    browser = site.browser("ada")
    site.log_in(browser)
    for headers in (
        {},
        {"Origin": "https://evil.example.org"},
        {"Origin": "null"},
        {"Origin": f"{site.door.url}.evil.example.org"},
        {"Sec-Fetch-Site": "cross-site", "Origin": site.door.url},
        {"Sec-Fetch-Site": "same-site"},
    ):
        reply = browser.client.post(f"{site.door.url}/api/v1/logout", headers=headers)
        assert (reply.status_code, code(reply)) == (403, "cross_site")
    assert browser.client.get(f"{site.door.url}/api/v1/whoami").status_code == 200
    page = {"Sec-Fetch-Site": "same-origin"}
    assert browser.client.post(f"{site.door.url}/api/v1/logout", headers=page).status_code == 200


def test_case_54_a_session_that_was_planted_is_not_taken_over(site: Site) -> None:
    """Session fixation: each login has a new secret, and what the browser held before is nobody's."""
    browser = site.browser("ada")
    browser.client.cookies.set("foedus-session", "fdp_" + "0" * 48)
    site.log_in(browser)
    assert site.door.ask("GET", "/runs", token="fdp_" + "0" * 48).status_code == 401
    first = browser.client.cookies.get("foedus-session", domain="127.0.0.1")
    site.log_in(browser)
    assert browser.client.cookies.get("foedus-session", domain="127.0.0.1") != first


def test_case_50_state_and_browser_must_be_those_of_the_login(site: Site) -> None:
    """A login that somebody else began, or that comes back twice, or with a state of its own, is refused."""
    ada, eve = site.browser("ada"), site.browser("grace")
    begun = eve.open(f"{site.door.url}/login", f"{site.door.url}/login/callback").headers["location"]
    assert code(ada.client.get(begun)) == "login_refused"
    ada.client.get(f"{site.door.url}/login")
    assert code(ada.client.get(begun)) == "login_refused"
    assert code(eve.client.get(re.sub("state=[^&]+", "state=AAAA", begun))) == "login_refused"
    assert code(eve.client.get(re.sub("code=[^&]+", "code=AAAA", begun))) == "login_refused"
    assert eve.client.get(begun).status_code == 200
    assert code(eve.client.get(begun)) == "login_refused"
    for query in ("", "?code=a", "?state=a", "?error=access_denied", "?code=a&state=a&iss=https://evil.example.org"):
        assert code(ada.client.get(f"{site.door.url}/login/callback{query}")) == "login_refused"


def test_whom_no_grant_covers_is_refused(site: Site) -> None:
    reply = site.log_in(site.browser("eve"))
    assert (reply.status_code, code(reply)) == (403, "login_unknown")


def test_grants_decide_the_role(site: Site) -> None:
    browser = site.browser("grace")
    site.log_in(browser)
    assert browser.client.get(f"{site.door.url}/api/v1/whoami").json()["role"] == "admin, researcher"


def test_a_terminal_logs_in_says_who_it_is_and_logs_out(site: Site, tmp_path: Path) -> None:
    """`foedus login`, `whoami`, `logout`: the token is kept for the user alone, and of no use afterwards."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment |= {"PYTHONPATH": "src", "FOEDUS_COORDINATOR": site.door.url}
    log = tmp_path / "log"

    def foedus(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "foedus", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)

    with log.open("wb") as file:
        command = [sys.executable, "-m", "foedus", "login", site.door.url]
        login = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        until("the page is named", lambda: login.poll() is not None or "and agree" in log.read_text())
        page = log.read_text().split("Open ")[1].split()[0]
        site.browser("ada").open(page, "nowhere")
        assert login.wait(240) == 0, log.read_text()
    assert "as ada" in log.read_text()
    (kept,) = (tmp_path / "config" / "foedus" / "tokens").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    secret = kept.read_text().strip()
    assert secret not in log.read_text()
    assert "ada" in foedus("whoami").stdout
    assert foedus("logout").returncode == 0
    assert not kept.exists()
    assert site.door.ask("GET", "/runs", token=secret).status_code == 401
    assert foedus("whoami").returncode == 4
