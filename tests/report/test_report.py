"""Reports: what they say is what the section holds, nothing of it is run, and nothing of it changes."""

from __future__ import annotations

import base64
import io
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from PIL import Image

import storm
from storm._report.page import Html, element, escape, table

#: Names that are markup, close an attribute, are mathematics for matplotlib, or need more than ASCII.
EVIL = ["<script>alert(1)</script>", '" onmouseover="alert(2)', r"$\frac{1}$ & 'x'", "Größe 肿瘤", "</td><img src=x>"]
VOID = {"img", "meta", "br"}


class Page(HTMLParser):
    """A page as a browser reads it: elements with their attributes, the text of each kind, cells of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []  # all is closed, in its order

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        (row,) = [row for row in self.rows if row[0] == first]
        return row

    @property
    def words(self) -> str:
        return " ".join(word for name, words in self.text.items() if name != "style" for word in words)


def harmless(page: Page) -> None:
    """Nothing runs, nothing is fetched, everything is described."""
    policy = [a["content"] for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    assert dict(page.elements[0][1]) == {"lang": "en"}
    for name, attributes in page.elements:
        assert name not in {"script", "iframe", "object", "embed", "link", "form", "base", "svg"}
        assert not [key for key in attributes if key.startswith("on")]
        if name == "img":
            assert attributes["src"].startswith("data:image/")
            assert attributes["alt"]
        if name == "th":
            assert attributes["scope"] in ("col", "row")
        if "href" in attributes:
            assert attributes["href"].startswith("#") or ":" not in attributes["href"]


@pytest.fixture(scope="module")
def finished(toy_once, tiny_model) -> spatialdata.SpatialData:
    """The toy with domains of awful names, their genes, predicted genes and a provenance."""
    from storm._settings import settings

    settings.verbosity = 0
    section = spatialdata.deepcopy(toy_once)
    section.tables["table"].obs["storm_domain"] = pd.Categorical.from_codes(
        np.arange(toy_once.tables["table"].n_obs) % 7 % 5, EVIL
    )
    section.tables["table"].obs.iloc[:3, -1] = np.nan
    head = storm.tl.fit_expression(section, ["EPCAM", "COL1A1", "CD3E", "MKI67"], model=tiny_model)
    storm.tl.predict_expression(section, head=head, model=tiny_model, keep="all")
    storm.tl.rank_domain_genes(section, reference="rest", spatial=False)
    section.tables["table"].uns["storm"]["<b>key</b>"] = {"<i>": {"a": "<script>alert(3)</script>"}}
    return section


@pytest.fixture(scope="module")
def reported(finished, tiny_model, tmp_path_factory) -> tuple[storm.ReportCard, Page]:
    path = tmp_path_factory.mktemp("report") / "<b> & 'q'.html"
    card = storm.write_report(finished, path, title=EVIL[0], source="it's <b>.zarr", model=tiny_model, n_genes=4)
    return card, Page(path)


def test_what_a_section_is_called_is_never_markup(reported):
    card, page = reported
    harmless(page)
    assert page.text["h1"] == [EVIL[0]]
    assert page.text["title"] == [f"{EVIL[0]} – STORM report"]
    for name in EVIL:
        assert any(name in row[0] for row in page.rows)  # shown as it is
    assert "<script>alert(3)</script>" in page.words
    assert "it's <b>.zarr" in page.words
    assert card.name == EVIL[0]


def test_it_says_what_the_section_holds(finished, reported):
    card, page = reported
    obs = finished.tables["table"].obs["storm_domain"]
    for name, size in obs.value_counts().items():
        row = next(row for row in page.rows if row[0] == name)
        assert row[1] == f"{size:,}"
        assert row[2] == f"{100 * size / obs.notna().sum():.1f} %"
        genes = storm.get.rank_domain_genes(finished, name)
        genes = genes[genes["scores"] > 0]
        assert row[3] == (", ".join(genes["names"][:5]) or "–")
    assert "3 rows have no domain." in page.words
    assert "against all other spots, as stored in the section" in page.words
    predicted = finished.tables["table_storm"]
    for name in predicted.var_names:
        assert [name, f"{predicted.var['storm_r'][name]:.2f}"] in [row[:2] for row in page.rows if len(row) == 5]
    report = storm.pp.check(finished, model="storm-mini", estimate=False)
    assert page.row("places")[2] == report["places"].value
    n_obs, n_vars = finished.tables["table"].shape
    assert (card.n_obs, card.n_genes, card.n_domains, card.n_predicted) == (n_obs, n_vars, 5, predicted.n_vars)
    for name, value in finished.tables["table_storm"].uns["storm"]["storm"].items():
        if isinstance(value, str):
            assert [name, value] in page.rows


def test_pictures_are_pictures(reported):
    card, page = reported
    sources = [a["src"] for name, a in page.elements if name == "img"]
    assert len(sources) == 4  # H&E, domains, reliability, maps of genes
    for source in sources:
        content = base64.b64decode(source.partition(",")[2], validate=True)
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format.lower() == source.split(";")[0].split("/")[1]
            assert min(picture.size) > 300
    with Image.open(io.BytesIO(card.picture)) as picture:
        assert max(picture.size) < 300


def test_nothing_changes(finished, tiny_model, tmp_path):
    def state(table):
        return {
            "obs": table.obs.copy(),
            "var": table.var.copy(),
            "keys": (list(table.obsm), list(table.layers), list(table.uns), list(table.uns["storm"])),
            "X": table.X.copy() if isinstance(table.X, np.ndarray) else table.X.toarray(),
        }

    before = {name: state(table) for name, table in finished.tables.items()}
    storm.write_report(finished, tmp_path / "a.html", model=tiny_model)
    assert set(finished.tables) == set(before)
    for name, one in finished.tables.items():
        after = state(one)
        pd.testing.assert_frame_equal(after["obs"], before[name]["obs"])
        pd.testing.assert_frame_equal(after["var"], before[name]["var"])
        assert after["keys"] == before[name]["keys"]
        np.testing.assert_array_equal(after["X"], before[name]["X"])


def test_what_is_missing_is_said_with_what_to_type(toy, tiny_model, tmp_path):
    card = storm.write_report(toy, tmp_path / "a.html", source="my section.zarr", model=tiny_model)
    page = Page(tmp_path / "a.html")
    harmless(page)
    assert page.text["code"] == [
        "storm embed 'my section.zarr' && storm domains 'my section.zarr'",
        "storm predict 'my section.zarr'",
    ]
    assert (card.n_domains, card.n_predicted) == (None, None)
    assert "no domains" in card.flags
    storm.write_report(toy, tmp_path / "b.html", model=tiny_model)
    assert Page(tmp_path / "b.html").text["code"][0] == "storm.tl.embed(data); storm.tl.domains(data)"


def test_what_is_to_be_typed_can_be(toy, tiny_model, tmp_path):
    """Commands that write results open no .h5ad, and no genes are predicted where there is no image."""
    table = toy["table"].copy()
    storm.write_report(table, tmp_path / "a.html", source="a b.h5ad", model=tiny_model, um_per_px=1.0)
    page = Page(tmp_path / "a.html")
    assert page.text["code"] == [
        "storm read h5ad 'a b.h5ad' 'a b.zarr' && storm embed 'a b.zarr' && storm domains 'a b.zarr'"
    ]
    assert "predicted from an H&E image, and there is none" in page.words
    table.uns["spatial"] = {"biopsy": {"images": {"hires": np.zeros((8, 8, 3), dtype=np.uint8)}}}
    storm.write_report(table, tmp_path / "b.html", source="b.h5ad", model=tiny_model, um_per_px=1.0)
    assert Page(tmp_path / "b.html").text["code"][1] == "storm read h5ad b.h5ad b.zarr && storm predict b.zarr"
    storm.write_report(table, tmp_path / "c.html", model=tiny_model, um_per_px=1.0)
    line = "data = storm.io.from_anndata(data); storm.tl.predict_expression(data)"
    assert Page(tmp_path / "c.html").text["code"][1] == line
    bare = spatialdata.SpatialData(shapes=dict(toy.shapes), tables={"table": toy["table"].copy()})
    storm.write_report(bare, tmp_path / "d.html", source="d.zarr", model=tiny_model)
    assert Page(tmp_path / "d.html").text["code"] == ["storm embed d.zarr && storm domains d.zarr"]


def test_genes_are_computed_where_that_is_cheap(toy, tiny_model, tmp_path, monkeypatch):
    table = toy.tables["table"]
    table.obs["storm_domain"] = table.obs["domain"].astype("category")
    storm.write_report(toy, tmp_path / "a.html", model=tiny_model)
    page = Page(tmp_path / "a.html")
    assert "Computed for this report: each domain against all other spots" in page.words
    assert "adj. p" not in page.words
    assert "rank_genes_groups" not in table.uns
    assert "Spots of some domains have many more genes, or fewer" in page.words  # the warning of the ranking
    with pytest.warns(UserWarning, match="many more genes"):
        ranked = storm.tl.rank_domain_genes(toy, reference="rest", spatial=False, copy=True)
    name = table.obs["storm_domain"].cat.categories[0]
    best = storm.get.rank_domain_genes(ranked, name).sort_values("auc", ascending=False, kind="stable").iloc[0]
    assert [best["names"], f"{best['logfoldchanges']:+.2f}", f"{best['auc']:.2f}"] in page.rows
    monkeypatch.setattr("storm._report.facts._CHEAP", 10)
    storm.write_report(toy, tmp_path / "b.html", model=tiny_model)
    assert "would take long for a report" in Page(tmp_path / "b.html").words


def test_a_table_of_two_sections_without_images(toy_once, tiny_model, tmp_path):
    table = toy_once.tables["table"]
    both = ad.concat({"A": table, "<B>": table[:90]}, label="sample", index_unique="-")
    both.obs["storm_domain"] = both.obs["domain"].astype("category")
    card = storm.write_report(both, tmp_path / "a.html", library_key="sample", um_per_px=1.0, model=tiny_model)
    page = Page(tmp_path / "a.html")
    harmless(page)
    head = next(row for row in page.rows if row[0] == "Domain")
    assert head == ["Domain", "Rows", "Share", "<B>", "A", "First genes"]
    for name in both.obs["storm_domain"].cat.categories:
        row = next(row for row in page.rows if row[0] == name and len(row) == 6)
        own = [int((both.obs["storm_domain"][both.obs["sample"] == one] == name).sum()) for one in ("<B>", "A")]
        assert row[3:5] == [f"{n:,}" for n in own]
    assert "no H&E image" in page.words
    assert card.picture  # of the domains
    # without the column, what is wrong is said, and a page is there all the same
    card = storm.write_report(both, tmp_path / "b.html", um_per_px=1.0, model=tiny_model)
    assert card.verdict == "fail"
    assert "library_key=" in Page(tmp_path / "b.html").words


def test_a_slide_without_tiles(toy, tiny_model, tmp_path):
    slide = spatialdata.SpatialData(images={"he": toy.images["he"]})
    card = storm.write_report(slide, tmp_path / "a.html", model=tiny_model)
    page = Page(tmp_path / "a.html")
    harmless(page)
    assert card.picture
    assert card.n_obs is None
    assert "image he" in page.words


def test_a_file_is_replaced_only_when_asked_and_only_whole(toy, tiny_model, tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.html"
    storm.write_report(toy, path, model=tiny_model)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.html exists"):
        storm.write_report(toy, path, model=tiny_model)

    def fail(*_, **__):
        msg = "no more"
        raise RuntimeError(msg)

    monkeypatch.setattr("storm._report.page._STYLE", None)
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(RuntimeError, match="no more"):
        storm.write_report(toy, path, model=tiny_model, overwrite=True)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(TypeError, match="expected a SpatialData or an AnnData"):
        storm.write_report([toy], path, model=tiny_model)


def test_index(reported, tmp_path):
    card, _ = reported
    broken = storm.ReportCard(name="<i>broken</i>", error="<b>no</b> store")
    storm.write_report_index([card, broken], card.file.parent / "index.html", title="<u>Run</u>")
    page = Page(card.file.parent / "index.html")
    harmless(page)
    assert page.text["h1"] == ["<u>Run</u>"]
    (link,) = [a["href"] for name, a in page.elements if name == "a"]
    assert (card.file.parent / unquote(link)) == card.file
    assert page.row(EVIL[0])[2:] == [card.verdict, "150", f"{card.n_genes:,}", "5", "4", page.row(EVIL[0])[-1]]
    assert all(flag in page.row(EVIL[0])[-1] for flag in card.flags)
    assert page.row("<i>broken</i>")[1:] == ["–", "error", "–", "–", "–", "–", "<b>no</b> store"]
    with pytest.raises(ValueError, match="no cards"):
        storm.write_report_index([], tmp_path / "index.html")


def test_text_is_escaped_once_and_markup_is_not():
    text = "<&\"'>"
    assert escape(text) == "&lt;&amp;&quot;&#x27;&gt;"
    assert escape(escape(text)) == escape(text)
    one = element("p", text, element("b", "x"), title=text, class_=None)
    assert one == f'<p title="{escape(text)}">{escape(text)}<b>x</b></p>'
    assert isinstance(one, Html)
    assert str(escape(text)) in table([text], [[text]], caption=text)
    assert text not in table([text], [[text]], caption=text)


def test_warnings_of_storm_are_remarks_and_those_of_others_are_not() -> None:
    from storm._logging import warn
    from storm._report._write_report import _recorded

    with _recorded() as texts:
        warn("ours")
        warnings.warn("theirs", UserWarning, stacklevel=1)
        warn("ours")
    assert texts == ["ours"]
