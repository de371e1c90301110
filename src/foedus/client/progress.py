"""How the work of a run goes, as people read it while it goes on and afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from foedus.client.http import Connection, identified
from foedus.wire.progress import PAGE, ProgressList, ProgressView


def read(connection: Connection, run: str, after: int = 0, client: str | None = None) -> Iterator[ProgressView]:
    """Every report that is kept after a number, in order, to the newest.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    while True:
        page = _page(connection, run, f"after={after}", client)
        yield from page.reports
        if not page.more:
            return
        after = page.reports[-1].id


def newest(connection: Connection, run: str, limit: int, client: str | None = None) -> tuple[ProgressView, ...]:
    """The newest reports, at most ``limit`` (and 200), in order.

    Raises:
        NotFoundError: ``run_unknown``.
    """
    return _page(connection, run, f"newest={min(limit, PAGE)}", client).reports


def _page(connection: Connection, run: str, query: str, client: str | None) -> ProgressList:
    of = f"&client={client}" if client else ""
    return connection.get(f"/runs/{identified('run', run)}/progress?{query}{of}", ProgressList)
