"""A run's report: self-contained, escaped, readable in the dark, and the same for the same run."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from foedus.domain.round import PhaseRecord, Receipt, RoundRecord
from foedus.engine.report import CLIENTS_SHOWN, GRID, INK, Report, curves_png, report_html

EVIL = '<script>alert("x")</script>'


def record(number: int, clients: int = 3) -> RoundRecord:
    names = tuple(f"c{index:04}" for index in range(clients))
    metrics = {"loss": 1 / number, "accuracy": 1 - 1 / (number + 1)}
    receipts = tuple(Receipt(name, {"examples": 5.0}, metrics, size=400) for name in names)
    phases = tuple(
        PhaseRecord(phase, names, receipts, metrics, bytes_down=1200, bytes_up=1200) for phase in ("train", "test")
    )
    return RoundRecord(number, phases, "0" * 64, 0.25)


REPORT = Report(
    "digits", "fedavg", {"rounds": "3"}, [record(n) for n in (1, 2, 3)], [("federated", 0.9), ("alone", 0.5)]
)


class Elements(HTMLParser):
    """Collects tags, ids and what the page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "xlink:href", "data", "action"}:
                self.links.append(value or "")


def test_the_page_refers_to_nothing_outside_itself() -> None:
    page = report_html(REPORT)
    elements = Elements(page)
    assert all(link.startswith("#") for link in elements.links)
    assert not {"script", "link", "img", "iframe"} & set(elements.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_references_inside_the_page_lead_somewhere_and_ids_are_unique() -> None:
    elements = Elements(report_html(REPORT))
    assert {link[1:] for link in elements.links} <= set(elements.ids)
    assert len(elements.ids) == len(set(elements.ids))


def test_every_text_is_escaped() -> None:
    client = Receipt(EVIL, {"examples": 1.0}, {EVIL: 0.5})
    phase = PhaseRecord(EVIL, (EVIL,), (client,), {EVIL: 0.5})
    page = report_html(Report(EVIL, EVIL, {EVIL: EVIL}, [RoundRecord(1, (phase,), "", 0.1)], [(EVIL, 0.5)], EVIL))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_follows_the_reader_s_scheme() -> None:
    page = report_html(REPORT)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert INK not in page
    assert GRID not in page
    assert "currentColor" in page


def test_the_page_shows_curves_clients_rounds_and_comparison() -> None:
    page = report_html(REPORT)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions == [
        "accuracy on the held-out part",
        "loss per round",
        "accuracy per round",
        "Bytes per round",
        "train/accuracy per client, last round",
        "train/loss per client, last round",
        "test/accuracy per client, last round",
        "test/loss per client, last round",
    ]
    rounds = page[page.index("<h2>Rounds</h2>") :]
    assert rounds.count("<tr>") == 1 + 3
    assert "0.9000" in page[page.index("<h2>Comparison</h2>") : page.index("<h2>Curves</h2>")]


def test_of_many_clients_the_first_are_shown_and_it_says_so() -> None:
    page = report_html(replace(REPORT, records=[record(1, 1000)]))
    assert f"the first {CLIENTS_SHOWN} of 1000" in page
    assert "c0039" in page
    assert "c0040" not in page


def test_the_same_run_gives_the_same_page_and_picture() -> None:
    assert report_html(REPORT) == report_html(REPORT)
    assert curves_png(REPORT) == curves_png(REPORT)
    assert curves_png(REPORT).startswith(b"\x89PNG")


def test_a_run_without_metrics_has_a_report() -> None:
    bare = RoundRecord(1, (PhaseRecord("train", (), (), {}),), "", 0.1)
    assert "<h2>Rounds</h2>" in report_html(replace(REPORT, records=[bare], comparison=()))
    assert curves_png(replace(REPORT, records=[bare]))
