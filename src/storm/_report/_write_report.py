"""``storm.write_report``."""

from __future__ import annotations

import datetime as dt
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm import _keys, pl
from storm._bridge.select import check_container, is_spatialdata
from storm._checks import check_whole
from storm._loading import StormModel
from storm._logging import is_ours
from storm._report import facts, parts
from storm._report.card import ReportCard
from storm._report.page import Html, element, figure, join, table, write_page
from storm._report.subject import Subject
from storm.pp import check

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

#: Genes whose predictions are drawn.
_DRAWN = 3
#: Dots per inch of the small picture of an index.
_SMALL_DPI = 42


def write_report(
    data: SpatialData | AnnData,
    path: str | Path,
    *,
    title: str | None = None,
    source: str | Path | None = None,
    key: str = _keys.DOMAIN,
    expression_key: str = _keys.EXPRESSION,
    n_genes: int = 10,
    model: str | StormModel = "storm-mini",
    estimate: bool = False,
    overwrite: bool = False,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
) -> ReportCard:
    """Write what is known of a section as one HTML file, to hand on.

    The file needs no network and no other file, and runs no script. It holds key numbers, what to look at in words, the
    H&E, the domains with their sizes and first genes, the genes predicted from H&E with how far to believe them, the
    table of :func:`storm.pp.check`, and the provenance of all results. What is missing is said, with what to type.
    Nothing in ``data`` changes.

    Genes of domains are those that :func:`storm.tl.rank_domain_genes` stored. Without them, each domain is compared
    with all other spots where that takes seconds; the report then says so and gives no p-values.

    Parameters
    ----------
    data
        A SpatialData or an AnnData; with or without image, table, domains and predictions; of one section or several.
    path
        File to write (``.html``); missing folders are made.
    title
        Title of the report; ``None`` for the name of the file.
    source
        Name of the store, for the commands that the report recommends; without it, they are Python.
    key
        Column of ``obs`` with the domains.
    expression_key
        The ``key_added`` of :func:`storm.tl.predict_expression`.
    n_genes
        Number of genes that are listed of each domain, and of the predicted ones.
    model, estimate
        As in :func:`storm.pp.check`: the model that the section is checked for, and whether to measure the time.
    overwrite
        Replace a file that exists.
    table_key, library_key, image_key, shapes_key, coordinate_system, um_per_px, layer
        What to read, and the scale, as in :func:`storm.tl.embed`; needed only if there are several.

    Returns
    -------
    ReportCard
        The section in short, for :func:`storm.write_report_index`.

    Raises
    ------
    FileExistsError
        If the file exists and is not to be replaced.
    KeyError, ValueError
        As :func:`storm.pp.check`: an element does not exist, or there are several and none is chosen.
    TypeError
        If ``data`` is something else.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy(n=60)
    >>> card = storm.write_report(sdata, "section.html", title="Biopsy 7")
    >>> card.verdict
    'ok'
    """
    path = Path(path)
    check_container(data)
    check_whole(n_genes, name="n_genes")
    if path.exists() and not overwrite:
        msg = f"{path} exists; give another name, or overwrite"
        raise FileExistsError(msg)
    places: dict[str, Any] = {
        "table_key": table_key, "library_key": library_key, "image_key": image_key, "shapes_key": shapes_key,
        "coordinate_system": coordinate_system, "um_per_px": um_per_px,
    }  # fmt: skip
    with _recorded() as raised, _plain_text():
        report = check(data, model=model, estimate=estimate, layer=layer, **places)
        subject = Subject(data, key, expression_key, places, layer, source, n_genes)
        pictures = _pictures(subject)
        body = [*_results(subject, pictures)]
    said = " ".join(f"{row.value} {row.explanation}" for row in report.rows)
    remarks = [
        *((row.verdict, f"{row.name}: {row.value}", row.explanation) for row in report.rows if row.verdict == "fail"),
        *((row.verdict, f"{row.name}: {row.value}", row.explanation) for row in report.rows if row.verdict == "warn"),
        *subject.remarks,
        *(("warn", text, "") for text in raised if text not in said),
    ]
    shown = path.stem if title is None else title
    card = subject.card(shown, path, verdict=report.verdict, flags=_flags(report, subject), picture=pictures.small)
    write_page(
        path,
        element(
            "header",
            element("p", "STORM report", class_="eyebrow"),
            element("h1", shown),
            element("p", _subtitle(subject), class_="soft"),
        ),
        element(
            "nav", join((element("a", name, href=f"#{part}") for part, name in _PARTS), by=" "), aria_label="Parts"
        ),
        element(
            "main",
            parts.section(
                "summary",
                "Summary",
                element("p", "Check: ", parts.badge(report.verdict), " ", _VERDICTS[report.verdict]),
                parts.tiles(subject.key_numbers()),
            ),
            parts.section(
                "look",
                "What to look at",
                parts.notes(remarks) if remarks else element("p", "Nothing was found that needs a look."),
            ),
            *body,
            parts.section("check", "Checks", _checks(report)),
            parts.section("provenance", "Provenance", _provenance(subject)),
        ),
        title=f"{shown} – STORM report",
        footer="Research use only: not for clinical decisions.",
    )
    return card


#: Parts of a report, and what their links are called.
_PARTS = (
    ("summary", "Summary"),
    ("look", "What to look at"),
    ("domains", "Image and domains"),
    ("genes", "Genes of domains"),
    ("virtual", "Genes from H&E"),
    ("check", "Checks"),
    ("provenance", "Provenance"),
)
_VERDICTS = {
    "ok": "all checks passed.",
    "warn": "usable; look at what is named below.",
    "fail": "results would be wrong until what is named below is mended.",
}


class _Pictures:
    """The H&E and the map of domains as HTML, and the small picture of an index."""

    def __init__(self, he: Html, domains: Html, small: bytes) -> None:
        self.he, self.domains, self.small = he, domains, small


def _pictures(subject: Subject) -> _Pictures:
    small = b""
    he = subject.drawn(pl.he, outlines=False, title="", **subject.places)
    if isinstance(he, str) and subject.table is None:
        he = _whole(subject) or he
    if isinstance(he, str):
        shown = element("p", "There is no picture of the H&E: ", he, class_="soft")
    else:
        small = _small(he)
        shown = figure(he, alt="H&E image of the section", caption="H&E image", photo=True, dpi=150)
    if subject.domains is None:
        what = f"There are no domains in obs[{subject.key!r}]."
        python, command = "storm.tl.domains(data)", "domains STORE"
        if subject.table is None or _keys.X_STORM not in subject.table.obsm:
            python, command = f"storm.tl.embed(data); {python}", f"embed STORE && storm {command}"
        return _Pictures(shown, subject.missing(what, python, command), small)
    mapped = subject.drawn(pl.domains, subject.key, legend=False, title="", image_alpha=0.35, **subject.places)
    if isinstance(mapped, str):
        return _Pictures(shown, element("p", "The domains cannot be drawn: ", mapped, class_="soft"), small)
    small = _small(mapped)
    alt = f"Map of {len(subject.domains.names)} domains on the section"
    return _Pictures(shown, figure(mapped, alt=alt, caption=parts.legend(subject.domains), photo=True, dpi=150), small)


def _whole(subject: Subject) -> Figure | None:
    """The image of an object without spots, as far as it can be drawn."""
    import matplotlib.pyplot as plt

    image_key = subject.places["image_key"]
    picture = facts.overview(subject.data, image_key if isinstance(image_key, str) else None)
    if picture is None:
        return None
    drawn, ax = plt.subplots(figsize=(5, 5 * picture.shape[0] / picture.shape[1]), layout="constrained")
    ax.imshow(picture)
    ax.set_axis_off()
    return drawn


def _small(drawn: Figure) -> bytes:
    """A small JPEG of a figure, which stays open."""
    with io.BytesIO() as file:
        drawn.savefig(
            file, dpi=_SMALL_DPI, format="jpeg", bbox_inches="tight", facecolor="white", pil_kwargs={"quality": 85}
        )
        return file.getvalue()


def _results(subject: Subject, pictures: _Pictures) -> Iterator[Html]:
    ranking, domains = subject.ranking, subject.domains
    sizes = "" if domains is None else parts.domain_sizes(domains, ranking or "none")
    yield parts.section(
        "domains", "Image and domains", element("div", pictures.he, pictures.domains, class_="pair"), sizes
    )
    if domains is None:
        genes: Html = element("p", "There are no domains whose genes could be compared.")
    elif isinstance(ranking, str):
        genes = element("p", ranking or "There is one domain only, which nothing can be compared with.")
    else:
        genes = parts.domain_genes(domains, ranking, subject.n_genes)
    yield parts.section("genes", "Genes of domains", genes)
    yield parts.section("virtual", "Genes predicted from H&E", *_virtual(subject))


def _virtual(subject: Subject) -> Iterator[Html]:
    prediction = subject.prediction
    if prediction is None:
        what = f"No genes were predicted under {subject.expression_key!r}."
        if not subject.pictured:
            yield element("p", f"{what} They would be predicted from an H&E image, and there is none.")
            return
        python = "storm.tl.predict_expression(data)"
        if not is_spatialdata(subject.data):
            python = f"data = storm.io.from_anndata(data); {python}"
        yield subject.missing(what, python, "predict STORE")
        return
    yield parts.prediction_text(prediction)
    key = subject.expression_key
    chart = subject.drawn(pl.reliability, key=key, table_key=subject.places["table_key"])
    names = list(prediction.genes.index[prediction.genes["r"].notna()][:_DRAWN])
    maps = subject.drawn(pl.expression, names, key=key, layer=subject.layer, **subject.places) if names else ""
    if not isinstance(chart, str):
        alt = "Correlation of each predicted gene with its measurement on held-out spots, the best first"
        chart_shown = figure(chart, alt=alt, caption="Reliability of all predicted genes")
        table_shown = parts.predicted_genes(prediction, subject.n_genes)
        yield element("div", element("div", table_shown), chart_shown, class_="pair text")
    else:
        yield parts.predicted_genes(prediction, subject.n_genes)
    if not isinstance(maps, str):
        alt = f"Maps of the genes {', '.join(map(str, names))}, measured where that was done, and predicted"
        yield figure(maps, alt=alt, caption="The most believable genes", photo=True, large=True, dpi=140)


def _checks(report: Any) -> Html:
    own = parts.check_table(report)
    sections = getattr(report, "sections", {})
    each = (join([element("h3", name), parts.check_table(one)]) for name, one in sections.items())
    return join([own, *each])


def _provenance(subject: Subject) -> Html:
    shown = [parts.pairs_table(facts.contents(subject.data), head=("Element", "Content"), caption="The object")]
    read = getattr(subject.data, "attrs", {}).get(_keys.READ)
    if isinstance(read, Mapping):
        pairs = [(str(name), str(value)) for name, value in read.items()]
        shown.append(parts.pairs_table(pairs, head=("Fact", "Value"), caption="How it was read (storm.io)"))
    records = {} if subject.table is None else facts.provenance(subject.table)
    beside = _keys.predicted_table(subject.table_key, subject.expression_key) if subject.table_key else ""
    if is_spatialdata(subject.data) and beside in subject.data.tables:
        own = facts.provenance(subject.data.tables[beside])
        records |= {f"{beside}: {name}": pairs for name, pairs in own.items()}
    for name, pairs in records.items():
        shown.append(table(["Parameter", "Value"], pairs, caption=f"{name} (uns['storm'])"))
    if not records:
        shown.append(element("p", "STORM has stored no result in this section."))
    return join(shown)


def _subtitle(subject: Subject) -> str:
    day = f"{dt.datetime.now(tz=dt.UTC):%d %B %Y}"
    where = [] if subject.source is None else [str(subject.source)]
    return " · ".join([*where, f"written on {day} (UTC)"])


def _flags(report: Any, subject: Subject) -> list[str]:
    flags = [f"{row.name}: {row.value}" for row in report.rows if row.verdict in ("fail", "warn")]
    flags += [about for _, about, _ in subject.remarks]
    if subject.table is not None and subject.domains is None:
        flags.append("no domains")
    return flags


@contextmanager
def _recorded() -> Iterator[list[str]]:
    """Collect the warnings of STORM as text, each once."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        yield texts
    for one in raised:
        text = " ".join(str(one.message).split())
        if is_ours(one.message) and text not in texts:
            texts.append(text)


@contextmanager
def _plain_text() -> Iterator[None]:
    """Draw without a screen, and names with a dollar sign as they are."""
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False}):
        yield
