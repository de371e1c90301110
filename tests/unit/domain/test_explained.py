"""Every error code that the source can raise has a page, and no page is of a code that nothing raises."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from foedus.domain.errors import NotFoundError
from foedus.domain.explained import KEYS, page, pages
from foedus.wire.http import CODE
from tests.codes import Raised, raised

FOLDER = Path(__file__).parents[3] / "src" / "foedus" / "domain" / "codes"
ROWS = [
    (path, code, row) for path in sorted(FOLDER.glob("*.toml")) for code, row in tomllib.loads(path.read_text()).items()
]


def test_every_code_in_the_source_can_be_read() -> None:
    _, unreadable = raised()
    assert unreadable == [], "write the code as a constant where it is raised, or add it to COMPUTED in tests/codes.py"


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    found, _ = raised()
    drafts = [_draft(code, found[code]) for code in sorted(set(found) - set(pages()))]
    assert not drafts, "these codes have no page; complete and paste:\n\n" + "\n\n".join(drafts)
    assert not set(pages()) - set(found), "nothing raises these codes any more: remove their pages"


def test_pages_say_of_which_kind_their_errors_are() -> None:
    found, _ = raised()
    wrong = {
        code: sorted(one.kinds)
        for code, one in found.items()
        if code in pages() and sorted(one.kinds) != sorted(pages()[code].kinds)
    }
    assert wrong == {}, "set `kind` of these pages to what the source raises"


def test_pages_are_whole_sentences_and_stand_once() -> None:
    codes = [code for _, code, _ in ROWS]
    assert sorted(codes) == sorted(set(codes)), "a code has one page, in one file"
    for path, code, row in ROWS:
        assert tuple(row) == KEYS, f"{path.name} [{code}] has the keys {', '.join(KEYS)}, in this order"
        for key in ("means", "why", "fix"):
            text = row[key]
            assert text and len(text) <= 300 and "…." not in text, f"{path.name} [{code}] {key}: one or two sentences"
    assert all(CODE.fullmatch(code) for code in codes)


def test_an_unknown_code_is_refused_with_the_nearest() -> None:
    with pytest.raises(NotFoundError) as caught:
        page("round_close")
    assert caught.value.code == "code_unknown"
    assert "round_closed" in caught.value.what


def _draft(code: str, one: Raised) -> str:
    """A page to complete, from what the first place says; ``…`` stands for what is computed there."""
    kinds = sorted(one.kinds)
    said = zip(("means", "why", "fix"), [*one.said, "", "", ""][:3], strict=True)
    lines = [f"# src/foedus/domain/codes/{sorted(one.packages)[0]}.toml", f"[{code}]"]
    lines.append(f"kind = {json.dumps(kinds[0] if len(kinds) == 1 else kinds)}")
    return "\n".join([*lines, *(f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in said)])
