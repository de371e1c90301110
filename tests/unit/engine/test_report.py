"""A run's report: self-contained, escaped, readable in the dark, and the same for the same run."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from foedus.domain.round import PhaseRecord, Receipt, RoundRecord
from foedus.engine.history import History
from foedus.engine.picture import curves_png
from foedus.engine.report import CLIENTS_SHOWN, ROUNDS_SHOWN, Report, report_html

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
    "digits",
    "fedavg",
    {"rounds": "3"},
    History(record(n) for n in (1, 2, 3)),
    [("federated", 0.9), ("alone", 0.5)],
    notes=["kernel eager: as asked"],
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


def test_rounds_that_ask_more_or_fewer_clients_are_all_told() -> None:
    assert History([record(1, 3), record(2, 5), record(3, 2)]).asked == "2 to 5"
    assert History([record(1, 3), record(2, 3)]).asked == "3"


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
    failed = PhaseRecord("test", (EVIL,), (Receipt(EVIL, {}, {}, failure=EVIL),), {})
    history = History([RoundRecord(1, (phase, failed), "", 0.1)])
    page = report_html(Report(EVIL, EVIL, {EVIL: EVIL}, history, [(EVIL, 0.5)], EVIL, [EVIL]))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_follows_the_reader_s_scheme() -> None:
    page = report_html(REPORT)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "currentColor" in page
    assert "var(--line)" in page


def test_the_page_shows_curves_clients_rounds_and_comparison() -> None:
    page = report_html(REPORT)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions == [
        "accuracy on the held-out part",
        "accuracy per round",
        "loss per round",
        "train/examples per client, last round",
        "train/accuracy per client, last round",
        "train/loss per client, last round",
        "test/examples per client, last round",
        "test/accuracy per client, last round",
        "test/loss per client, last round",
        "bytes per round",
        "seconds per round",
    ]
    rounds = page[page.index("<h2>Rounds</h2>") :]
    assert rounds.count("<tr>") == 1 + 3
    assert "0.9000" in page[page.index("<h2>Comparison</h2>") : page.index("<h2>Curves</h2>")]
    assert "kernel eager: as asked" in page
    assert "3 clients took part; a round asked 3 of them." in page
    assert "Nobody: every client that was asked contributed." in page


def test_who_dropped_out_is_named_with_the_reason_and_how_often() -> None:
    def failing(number: int, client: str, reason: str) -> RoundRecord:
        receipts = (Receipt(client, {}, {}, failure=reason), Receipt("well", {"examples": 1.0}, {"loss": 1.0}))
        return RoundRecord(number, (PhaseRecord("train", (client, "well"), receipts, {"loss": 1.0}),), "", 0.1)

    history = History([failing(1, "a", "late"), failing(2, "b", "lost"), failing(3, "b", "update_not_finite: NaN")])
    page = report_html(replace(REPORT, history=history))
    section = page[page.index("<h2>Who dropped out</h2>") : page.index("<h2>Bytes and time</h2>")]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", section)[1:]]
    assert rows == [["b", "2", "3, train", "update_not_finite: NaN"], ["a", "1", "1, train", "late"]]


def test_many_clients_are_shown_as_a_distribution() -> None:
    page = report_html(replace(REPORT, history=History([record(1, CLIENTS_SHOWN + 1)])))
    assert "41 clients: least 5, median 5, most 5" in page
    assert "c0000" not in page
    assert "c0000" in report_html(replace(REPORT, history=History([record(1, CLIENTS_SHOWN)])))


def test_of_ten_clients_and_more_the_middle_is_shaded() -> None:
    assert "the middle 80 % of clients" not in report_html(
        replace(REPORT, history=History([record(1, 9), record(2, 9)]))
    )
    page = report_html(replace(REPORT, history=History([record(1, 10), record(2, 10)])))
    assert page.count("the middle 80 % of clients") == 2
    assert page.count("<polygon") == 4


def test_of_many_rounds_the_last_are_listed_and_all_are_drawn() -> None:
    page = report_html(replace(REPORT, history=History(record(n) for n in range(1, 2001))))
    assert f"The last {ROUNDS_SHOWN} of 2000." in page
    assert page[page.index("<h2>Rounds</h2>") :].count("<tr>") == 1 + ROUNDS_SHOWN
    assert len(page) < 1_000_000


def test_the_same_run_gives_the_same_page_and_picture() -> None:
    assert report_html(REPORT) == report_html(REPORT)
    rows = REPORT.history.rows
    assert curves_png(rows) == curves_png(rows)
    assert curves_png(rows).startswith(b"\x89PNG")


def test_a_run_without_metrics_has_a_report() -> None:
    bare = History([RoundRecord(1, (PhaseRecord("train", (), (), {}),), "", 0.1)])
    assert "<h2>Rounds</h2>" in report_html(replace(REPORT, history=bare, comparison=()))
    assert curves_png(bare.rows)
