"""``storm.write_report_index``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from storm._report.card import ReportCard
from storm._report.page import Html, data_uri, element, join, table, write_page


def write_report_index(cards: Sequence[ReportCard], path: str | Path, *, title: str = "Sections") -> None:
    """Write a page with a row for each of several sections, and links to their reports.

    Parameters
    ----------
    cards
        What :func:`storm.write_report` returned of each section; sections that could not be reported have an ``error``.
    path
        File to write, beside or above the reports, so that the links hold when the folder is moved. It is replaced.
    title
        Title of the page.

    Raises
    ------
    ValueError
        If there are no cards.

    Examples
    --------
    >>> import storm
    >>> sections = {"A": storm.datasets.toy(n=60), "B": storm.datasets.toy(n=60, seed=1)}
    >>> cards = [storm.write_report(one, f"reports/{name}.html") for name, one in sections.items()]
    >>> storm.write_report_index(cards, "reports/index.html")
    """
    if not cards:
        msg = "there are no cards to make an index of; storm.write_report returns one for each section"
        raise ValueError(msg)
    path = Path(path)
    verdicts = [("failed" if card.error else card.verdict) for card in cards]
    listed = ", ".join(
        f"{verdicts.count(verdict)} {word}"
        for verdict, word in (
            ("ok", "passed all checks"),
            ("warn", "with warnings"),
            ("fail", "in which something is wrong"),
            ("failed", "without a report"),
        )
        if verdict in verdicts
    )
    head = ["Section", "Picture", "Check", "Rows", "Genes", "Domains", "Virtual genes", "What to look at"]
    rows = [_row(card, path.parent) for card in cards]
    write_page(
        path,
        element(
            "header",
            element("p", "STORM reports", class_="eyebrow"),
            element("h1", title),
            element("p", f"{len(cards)} {'section' if len(cards) == 1 else 'sections'}: {listed}", class_="soft"),
        ),
        element("main", table(head, rows, numbers=(3, 4, 5, 6))),
        title=title,
        footer="Research use only: not for clinical decisions.",
    )


def _row(card: ReportCard, folder: Path) -> list[object]:
    name: object = card.name
    if card.file is not None:
        address = quote(Path(os.path.relpath(card.file, folder)).as_posix())
        name = element("a", card.name, href=address)
    picture = "–"
    if card.picture:
        picture = element("img", alt=f"Map of {card.name}", src=data_uri(card.picture, "jpeg"))
    verdict = "error" if card.error else card.verdict
    badge = element("span", verdict, class_=f"badge {'fail' if card.error else card.verdict}")
    numbers = ["–" if n is None else f"{n:,}" for n in (card.n_obs, card.n_genes, card.n_domains, card.n_predicted)]
    remarks: object = card.error or join(card.flags, by="; ") or "–"
    return [name, picture, badge, *numbers, Html(remarks) if isinstance(remarks, Html) else remarks]
