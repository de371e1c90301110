"""What a node may tell of a table: drafted from the owner's file, in a process apart (:mod:`foedus.node.apart`).

The owner looks at the same with ``foedus node data schema``. Needs torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import ValidationError

from foedus.data.reading import drafted
from foedus.domain.errors import NotFoundError
from foedus.node.apart import refusals
from foedus.node.loadings import loading_of
from foedus.node.schemas import check_table, unaligned
from foedus.node.vault import Vault
from foedus.wire.messages import SchemaColumn, TellSchema

LIMIT = (8 << 20) - (64 << 10)
"""Bytes of a schema as JSON at most: with what is around it, a coordinator takes so much in one message."""


def schema(home: Path, client: str, place: Path | None = None, kind: str | None = None) -> dict[str, SchemaColumn]:
    """The columns of a dataset; they are read from ``place`` as ``kind``, where it is not the owner's own.

    Classes are told where there is text and no loading plan of the owner's makes numbers of it.

    Raises:
        NotFoundError: ``dataset_unknown``. ConfigError: ``align_refused``.
        DataError: as :func:`foedus.data.reading.drafted`.
    """
    with Vault(home) as vault:
        dataset = next((each for each in vault.datasets() if each.client == client), None)
        if dataset is None:
            fix = "See `foedus node data list`."
            raise NotFoundError("dataset_unknown", f"There is no dataset {client!r:.80} on this node.", "", fix)
        by = loading_of(vault, dataset)
    check_table(dataset)
    reading = dataset.reading if kind is None else dataset.reading.model_copy(update={"kind": kind})
    columns = drafted(reading, None if by is None else by.plan, dataset.path if place is None else place)
    try:
        found = {
            name: SchemaColumn(classes=tuple(sorted(each.classes)), whole=bool(each.classes) or each.type == "int64")
            for name, each in sorted(columns.items())
        }
        made = TellSchema(run="r_0", client=client, columns=found)
    except ValidationError as error:
        raise unaligned("It has very many columns or classes, or a name of one that is empty or very long.") from error
    if not found:
        raise unaligned("None of its columns has a value.")
    if len(made.model_dump_json().encode()) > LIMIT:
        raise unaligned(f"What there is to tell of it has more than {LIMIT} bytes.")
    return found


def main() -> None:
    """Say the columns in JSON; the second argument names the client, the place that is read, and its kind."""
    with refusals():
        client, place, kind = json.loads(sys.argv[2])
        columns = schema(Path(sys.argv[1]), client, Path(place), kind)
        print(json.dumps({name: column.model_dump(mode="json") for name, column in columns.items()}))


if __name__ == "__main__":
    main()
