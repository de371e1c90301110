"""A login at a terminal: the coordinator names a page and a code, and waits for the person with us."""

from __future__ import annotations

import time
from collections.abc import Callable

from foedus.client.http import Connection
from foedus.domain.errors import AccessError
from foedus.wire.trust import DeviceLogin, LoggedOut, LoginState, PollLogin, Whoami

NOBODY = "nobody-has-logged-in-yet"
"""What goes in place of a token before there is one."""


def log_in(url: str, show: Callable[[DeviceLogin], None]) -> LoginState:
    """Log in; ``show`` is told what the person has to do. Returns who logged in, with the token.

    Raises:
        AccessError: ``login_refused``, or that the time is over. ConfigError: ``login_missing``.
    """
    with Connection(url, NOBODY) as connection:
        device = connection.post("/login/device", DeviceLogin)
        show(device)
        end, interval = time.monotonic() + device.expires_in, device.interval
        while time.monotonic() < end:
            time.sleep(interval)
            found = connection.post("/login/device/poll", LoginState, PollLogin(device=device.device))
            if found.state == "done":
                return found
            interval += 5 if found.state == "slow_down" else 0
    raise AccessError("login_refused", "The login took too long.", "The code is not good any more.", "Log in again.")


def log_out(connection: Connection) -> LoggedOut:
    """End the token that the connection uses."""
    return connection.post("/logout", LoggedOut)


def whoami(connection: Connection) -> Whoami:
    """Who the connection's token is of."""
    return connection.get("/whoami", Whoami)
