"""A play as a natural federation: the characters of each speaker, cut into windows for a next-character model.

After McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, section 3
(https://arxiv.org/abs/1602.05629), whose clients are the speaking roles of Shakespeare. The file is Karpathy's
tinyshakespeare: speeches of a line ``Name:`` and lines of text, apart by empty lines.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from foedus.data.dataset import Columns
from foedus.data.population import Federation, OnDemand
from foedus.data.sources.source import (
    Request,
    Source,
    check_size,
    client_names,
    missing,
    reading,
    required_folder,
    unreadable,
)
from foedus.domain.table import Share, Table

FILE = "input.txt"
LAYOUT = f"`[data] folder` holds {FILE}, the file of tinyshakespeare (github.com/karpathy/char-rnn)."
TEXT = 2**28
"""Bytes of the file at most."""


class SpeakerOptions(Table):
    """``length``: characters that a window predicts. ``test``: the share at the end of each role that is its test part.

    A role too short for one window is left out; ``test`` counts only where the test part is asked for.
    """

    length: Annotated[int, Field(ge=1, le=65536)] = 80
    test: Share = 0.2


def read(request: Request) -> Federation:
    """Clients are the roles; ``text`` ``[n, length + 1]`` uint8, places in the sorted alphabet of the whole file.

    Windows overlap by one character, so that each character but the first is predicted once.

    Raises:
        DataError: ``dataset_missing``, ``dataset_unreadable``, ``dataset_too_large``.
    """
    path = required_folder(request, LAYOUT) / FILE
    if not path.is_file():
        raise missing(request.name, f"the file {path}", LAYOUT)
    check_size(path.stat().st_size, f"The file {path.name}", TEXT)
    with reading(path, OSError, UnicodeDecodeError):
        whole = path.read_text("utf-8")
    alphabet = {letter: at for at, letter in enumerate(sorted(set(whole)))}
    if len(alphabet) > 256:
        raise unreadable(path, f"It has {len(alphabet)} different characters; at most 256 are known.")
    options: SpeakerOptions = request.options
    roles = {role: _windows(text, alphabet, options.length) for role, text in _roles(whole).items()}
    kept = {role: windows for role, windows in sorted(roles.items()) if len(windows)}
    if not kept:
        raise unreadable(path, f"No role in it speaks {options.length + 1} characters.")
    names, places = client_names(list(kept))
    parts = [kept[role] for role in kept]
    cuts = [len(windows) - int(options.test * len(windows) if request.test else 0) for windows in parts]

    def client(place: int) -> Columns:
        return {"text": parts[places[place]][: cuts[places[place]]]}

    tested = torch.cat([windows[cut:] for windows, cut in zip(parts, cuts, strict=True)])
    return Federation(OnDemand(names, client), {"text": tested} if request.test else None)


def _roles(whole: str) -> dict[str, str]:
    """Role → all that it says, in order, speeches apart by a line's end."""
    speeches: dict[str, list[str]] = {}
    for block in whole.split("\n\n"):
        head, _, speech = block.strip("\n").partition("\n")
        if head.endswith(":") and speech:
            speeches.setdefault(head[:-1], []).append(speech)
    return {role: "\n".join(said) + "\n" for role, said in speeches.items()}


def _windows(text: str, alphabet: dict[str, int], length: int) -> Tensor:
    codes = torch.tensor([alphabet[letter] for letter in text], dtype=torch.uint8)
    return codes.unfold(0, length + 1, length) if len(codes) > length else codes.new_empty(0, length + 1)


SOURCE = Source(read, SpeakerOptions)
