"""The composition root: settings become a running coordinator."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from sqlalchemy import select

import foedus
from foedus.coordinator import (
    assignment_routes,
    audit_routes,
    blob_routes,
    event_routes,
    login_routes,
    measures,
    node_routes,
    people_routes,
    progress_routes,
    recording,
    run_routes,
    tls,
    tokens,
    upload_routes,
)
from foedus.coordinator.blob_rows import Quota
from foedus.coordinator.context import Context, context
from foedus.coordinator.gate import gate
from foedus.coordinator.guards import Guards, StillWelcome
from foedus.coordinator.http import ReplyCrashPoints, add_error_handlers
from foedus.coordinator.live import Live
from foedus.coordinator.metrics import render
from foedus.coordinator.oidc import Provider
from foedus.coordinator.openapi import describe
from foedus.coordinator.outbox import Outbox
from foedus.coordinator.policy import acts
from foedus.coordinator.protocol import BoundedHttp, Pace, Room, places
from foedus.coordinator.requests import Requests
from foedus.coordinator.settings import Settings
from foedus.coordinator.supervisor import Supervisor
from foedus.coordinator.sweeping import Sweeper
from foedus.domain.errors import ConflictError, StorageError
from foedus.domain.spans import watched_by
from foedus.store.artifacts import open_artifacts
from foedus.store.nonces import SharedNonces
from foedus.store.tables import schema
from foedus.store.unit_of_work import Store
from foedus.wire.messages import PROTOCOL
from foedus.wire.nonces import Nonces
from foedus.wire.people import Token

ADMIN_TOKEN = "admin-token"
"""The file in the coordinator's folder with the first admin's token; it may be deleted."""


@dataclass(frozen=True)
class Opened:
    """A coordinator's parts; ``admin`` is there at the first start, and never again."""

    context: Context
    admin: Token | None
    lock: BinaryIO | None


def open_coordinator(settings: Settings) -> Opened:
    """Open (or make) a coordinator's folder, and recover it.

    Raises:
        ConflictError: ``schema_newer``, ``schema_older``, ``folder_in_use``.
        StorageError: where the folder cannot be used.
    """
    try:
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError("folder_unusable", f"{settings.folder} cannot be used.", error.strerror or "") from error
    # Alone in its folder with SQLite; replicas on PostgreSQL may share one, and each run is fenced.
    lock = _lock(settings.folder) if settings.embedded else None
    artifacts = open_artifacts(settings.folder, settings.blobs, settings.blob_cache)
    if settings.embedded:
        artifacts.recover()
    store = Store(settings.database_url, migrate=settings.migrate, connections=settings.connections)
    with store.transaction("first_admin") as tx:
        admin = tokens.first_admin(tx)
        if admin is not None:
            # Before the commit: killed in between, the file has a token that is worth nothing, never the other way.
            write_secret(settings.folder / ADMIN_TOKEN, admin.token)
    quota = Quota(settings.blob_limit, settings.quota_uploads, settings.quota_bytes)
    live = Live(store, artifacts, inline=settings.inline, quota=quota)
    return Opened(Context(settings, live, _guards(store, settings)), admin, lock)


def _guards(store: Store, settings: Settings) -> Guards:
    """Replicas share the memory of nonces in their database; one process alone has its own, and begins it now.

    Importing alone takes longer than a second, so nothing that an earlier process accepted was signed in this one.
    """
    nonces, since = (SharedNonces(store), 0.0) if store.shared else (Nonces(), float(int(time.time())))
    files = settings.tls_files
    return Guards(
        nonces,
        since,
        revoked=tls.Revoked(files) if files is not None and files.client_ca is not None else None,
        provider=Provider(settings.login.client()) if settings.login is not None else None,
    )


def create_app(parts: Context) -> FastAPI:
    """The ASGI application; its lifespan drives the runs that are open."""
    app = FastAPI(
        title="foedus coordinator",
        version=foedus.__version__,
        lifespan=_driving(parts),
        dependencies=[Depends(gate)],
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    app.state.context = parts
    add_error_handlers(app)
    app.add_middleware(StillWelcome)
    app.add_middleware(ReplyCrashPoints)
    app.add_middleware(Requests)
    for router in (
        run_routes.router,
        progress_routes.router,
        event_routes.router,
        recording.router,
        assignment_routes.router,
        node_routes.router,
        people_routes.router,
        audit_routes.router,
        login_routes.router,
        blob_routes.router,
        upload_routes.router,
    ):
        app.include_router(router)
    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics), ("/version", version)):
        app.add_api_route(
            path, endpoint, methods=["GET"], tags=["operation"], response_model=None, **acts("service.read")
        )
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


def _driving(parts: Context) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What goes on beside the answers, as long as they are given: runs, webhooks, the collection of garbage."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        supervisor = Supervisor(parts.live, parts.settings.replica, parts.settings.leader_lease)
        outbox = Outbox(parts.store, parts.live.bells, parts.settings.webhooks)
        sweeper = Sweeper(parts)
        with watched_by(measures.watch):
            supervisor.start()
            outbox.start()
            sweeper.start()
            yield
            parts.live.bells.close()
            outbox.stop()
            sweeper.stop()
            supervisor.stop()

    return lifespan


async def healthz() -> dict[str, str]:
    """The process answers; on the event loop, so that it does though every worker thread is busy."""
    return {"status": "ok"}


def readyz(request: Request) -> dict[str, str]:
    """The database can be read and the blobs' folder written."""
    parts = context(request)
    with parts.store.reading() as tx:
        tx.execute(select(schema.c.version)).one()
    if not parts.artifacts.writable():
        raise StorageError("disk_full", "The folder of the blobs cannot be written.")
    return {"status": "ready"}


def metrics(request: Request) -> Response:
    """What operators ask, in Prometheus' text format."""
    parts = context(request)
    return Response(render(parts.store, parts.settings.folder), media_type="text/plain; version=0.0.4")


def version() -> dict[str, object]:
    """What runs here."""
    return {"foedus": foedus.__version__, "protocol": PROTOCOL}


def write_secret(path: Path, secret: str) -> None:
    """Keep a secret in a file that only this user may read, durably, in place of what was there."""
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


class _Server(uvicorn.Server):
    """Says when it listens, and ends open long polls as soon as the process is told to stop."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started
        self._stopping = stopping
        self._tasks: list[asyncio.Task[None]] = []

    def secure(self, files: tls.Files) -> None:
        """Speak TLS with what these files hold, and go on with what they hold later."""
        self.config.load()
        self.config.ssl = context = tls.server_context(files)
        self._files = context, files

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.config.ssl is not None:
            self._tasks.append(asyncio.create_task(tls.watch(*self._files)))
        if self.started:
            self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping()
        super().handle_exit(sig, frame)


def serve(parts: Context, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. ``started`` is told the URL once the port is open (port 0: any that is free).

    Raises:
        ConflictError: ``port_taken``.
    """
    settings = parts.settings
    listener = _listen(settings)
    settings = replace(settings, port=listener.getsockname()[1])
    config = uvicorn.Config(
        create_app(replace(parts, settings=settings)),
        http=partial(BoundedHttp, room=Room(places(), Pace(body=settings.idle, reply=settings.idle))),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
    )
    server = _Server(config, lambda: started(settings.url), parts.live.bells.close)
    if (files := settings.tls_files) is not None:
        server.secure(files)
    server.run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConflictError(
            "port_taken",
            f"{settings.host}:{settings.port} cannot be listened on.",
            error.strerror or "",
            "Choose another --port.",
        ) from error
    return listener


def _lock(folder: Path) -> BinaryIO:
    """Held as long as this process lives, however it ends: two coordinators on one folder would undo each other."""
    file = (folder / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConflictError(
            "folder_in_use", f"Another coordinator uses {folder}.", "", "Stop it, or choose another --folder."
        ) from error
    return file
