"""The parts of a report as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._report.facts import Depth, Domains, Prediction, Ranking
from storm._report.page import Html, element, join, table

if TYPE_CHECKING:
    import pandas as pd

    from storm.pp._report import CheckReport

#: What ``var["storm_reliable"]`` says.
_RELIABLE: dict[Any, str] = {1.0: "yes", 0.0: "no"}
#: Genes in the list beside the size of a domain.
_FEW = 5


def section(identity: str, title: str, *content: object) -> Html:
    """A part of the page with a heading that links lead to."""
    return element("section", element("h2", title), *content, id=identity)


def badge(verdict: str) -> Html:
    """A verdict in its colour."""
    return element("span", verdict, class_=f"badge {verdict}")


def tiles(pairs: Sequence[tuple[str, str]]) -> Html:
    """Key numbers: what each is called and its value."""
    shown = (element("div", element("b", value), element("span", name), class_="tile") for name, value in pairs)
    return element("div", *shown, class_="tiles")


def notes(remarks: Sequence[tuple[str, str, str]]) -> Html:
    """What to look at: verdict, what it is about, and what it means and what to do."""
    entries = (
        element("li", element("strong", about), element("div", text) if text else "", class_=verdict)
        for verdict, about, text in remarks
    )
    return element("ul", *entries, class_="notes")


def swatch(colour: str) -> Html:
    """A small field of a colour, which is a hex code."""
    return element("span", class_="swatch", style=f"background:{colour}", aria_hidden="true")


def check_table(report: CheckReport) -> Html:
    """The checks, one a row."""
    rows = [(row.name, badge(row.verdict), row.value, row.explanation) for row in report.rows]
    return table(["Check", "Verdict", "Found", "What it means, what to do"], rows)


def key_numbers(
    *, n_obs: int, n_genes: int, depth: Depth | None, domains: Domains | None, prediction: Prediction | None
) -> list[tuple[str, str]]:
    """Names and values of the numbers on top of a report."""
    pairs = [("spots, bins, cells or tiles", f"{n_obs:,}"), ("genes measured", f"{n_genes:,}")]
    if depth is not None:
        pairs += [("median counts per row", f"{depth.counts:,.0f}"), ("median genes per row", f"{depth.genes:,.0f}")]
    pairs.append(("domains", "–" if domains is None else str(len(domains.names))))
    pairs.append(("genes predicted from H&E", "–" if prediction is None else f"{len(prediction.genes):,}"))
    return pairs


def domain_sizes(domains: Domains, ranking: Ranking | str) -> Html:
    """Size of each domain, in each section where there are several, and its first genes."""
    total = domains.sizes.sum()
    several = len(domains.sections) > 1
    rows = []
    for number, (name, colour) in enumerate(zip(domains.names, domains.colours, strict=True)):
        sizes = domains.sizes[number]
        share = sizes.sum() / total
        bar = element("span", class_="bar", style=f"width:{8 * share:.2f}rem", aria_hidden="true")
        first: Iterable[Any] = [] if isinstance(ranking, str) else _of_domain(ranking.genes, name, _FEW)["names"]
        genes = element("span", join(first, by=", ") or "–", class_="gene")
        rows.append(
            [
                element("span", swatch(colour), name),
                f"{sizes.sum():,}",
                element("span", f"{100 * share:.1f} %", bar),
                *([f"{one:,}" for one in sizes] if several else []),
                genes,
            ]
        )
    head = ["Domain", "Rows", "Share", *(domains.sections if several else []), "First genes"]
    without = "" if not domains.without else element("p", f"{domains.without:,} rows have no domain.", class_="soft")
    return join([table(head, rows, numbers=(1, *range(3, 3 + several * len(domains.sections)))), without])


def legend(domains: Domains) -> Html:
    """Names of the domains with their colours, below their map."""
    pairs = zip(domains.names, domains.colours, strict=True)
    return element("span", *(element("span", swatch(colour), name) for name, colour in pairs), class_="legend")


def domain_genes(domains: Domains, ranking: Ranking, n_genes: int) -> Html:
    """The first genes of each domain with their statistics."""
    cards = []
    tested = set(ranking.genes["group"])
    for name, colour in zip(domains.names, domains.colours, strict=True):
        title = element("h3", swatch(colour), f"Domain {name}")
        if name not in tested:
            cards.append(element("div", title, element("p", "not tested", class_="soft"), class_="card"))
            continue
        genes = _of_domain(ranking.genes, name, n_genes)
        p = None if ranking.computed else _p_column(genes)
        head = ["Gene", "log₂ fold", "AUC", *([] if p is None else ["adj. p"])]
        rows = [
            [
                element("span", row.names, class_="gene"),
                _number(row.logfoldchanges, "+.2f"),
                _number(row.auc, ".2f"),
                *([] if p is None else [_number(getattr(row, p), ".0e")]),
            ]
            for row in genes.itertuples()
        ]
        cards.append(element("div", title, table(head, rows, numbers=(1, 2, 3)), class_="card"))
    return join([element("p", ranking.note), element("div", *cards, class_="cards")])


def _of_domain(genes: pd.DataFrame, name: str, n: int) -> pd.DataFrame:
    own = genes[(genes["group"] == name) & (genes["scores"] > 0)]
    return own.head(n)


def _p_column(genes: pd.DataFrame) -> str:
    """The p-values that count: those of the spatial test where it was made."""
    return "p_spatial_adj" if genes["p_spatial_adj"].notna().any() else "pvals_adj"


def predicted_genes(prediction: Prediction, n_genes: int) -> Html:
    """The most believable genes, with what is known of each."""
    rows = [
        [
            element("span", name, class_="gene"),
            _number(row.r, ".2f"),
            _number(row.r_min, ".2f"),
            f"{_number(row.n_sections, '.0f')} / {_number(row.n_patients, '.0f')}",
            _RELIABLE.get(row.reliable, "unknown"),
        ]
        for name, row in zip(prediction.genes.index, prediction.genes.itertuples(), strict=True)
    ][:n_genes]
    head = ["Gene", "Held-out r", "Worst section", "Sections / patients", "Reliable"]
    caption = "Reliable: r above 0 in all sections of two patients or more; unknown from one patient"
    return table(head, rows, caption=caption, numbers=(1, 2, 3))


def prediction_text(prediction: Prediction) -> Html:
    """What the genes are, and how far to believe them, in words."""
    r = prediction.genes["r"].dropna()
    text = f"{len(prediction.genes):,} genes were predicted from the H&E image"
    text += f" ({prediction.units})." if prediction.units else "."
    if len(r):
        low, high = r.quantile([0.25, 0.75])
        text += (
            f" On spots that the model had not seen, the predicted and the measured values of a gene correlate with a "
            f"median r of {r.median():.2f} (half of the genes between {low:.2f} and {high:.2f})."
        )
    else:
        text += " How far to believe them is not known: no gene has a correlation on held-out spots."
    if prediction.measured_on:
        text += f" This was measured on: {prediction.measured_on}."
    return element("p", text)


def pairs_table(pairs: Sequence[tuple[str, str]], *, head: tuple[str, str], caption: str | None = None) -> Html:
    """Names and values."""
    return table(head, pairs, caption=caption)


def _number(value: Any, form: str) -> str:
    """A number as text; a dash where there is none."""
    return "–" if value is None or np.isnan(value) else format(float(value), form)
