"""Plots of contacts and genes: what is drawn is what is stored."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import storm


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def section() -> ad.AnnData:
    """Three stripes, each with a gene of its own, and a gene that one of them lacks."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(8) for x in range(24)], dtype=float) * 100
    stripe = (centres[:, 0] // 800).astype(int)
    means = np.full((192, 12), 1.5)
    for gene in range(3):
        means[stripe == gene, gene] = 6
    counts = rng.poisson(means)
    counts[stripe != 1, 3] = 0
    adata = ad.AnnData(counts.astype(np.float32), obsm={"spatial": centres})
    adata.var_names = [f"gene{i}" for i in range(12)]
    adata.obs["storm_domain"] = pd.Categorical(np.array(["left", "middle", "right"])[stripe])
    return adata


def test_contact_draws_the_table(section):
    storm.tl.adjacent_domains(section)
    frame = storm.get.adjacent_domains(section)
    ax = storm.pl.contact(section)
    drawn = ax.images[0].get_array()
    np.testing.assert_allclose(drawn.filled(np.nan), frame["share"].to_numpy().reshape(3, 3))
    framed = {(round(p.get_y() + 0.47), round(p.get_x() + 0.47)) for p in ax.patches}
    assert framed == {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["left", "middle", "right"]
    own = plt.subplots()[1]
    assert storm.pl.contact(section, value="z", ax=own, numbers=False, title="z") is own
    assert own.get_title() == "z"
    assert own.images[0].norm.vmin == -own.images[0].norm.vmax
    assert not own.texts


def test_contact_needs_its_table(section):
    with pytest.raises(KeyError, match=r"run storm\.tl\.adjacent_domains first"):
        storm.pl.contact(section)
    storm.tl.adjacent_domains(section)
    with pytest.raises(ValueError, match="value='p'"):
        storm.pl.contact(section, value="p")
    with pytest.raises(ValueError, match="cmap='nope'"):
        storm.pl.contact(section, cmap="nope")


def test_volcano_draws_the_genes(section):
    storm.tl.rank_domain_genes(section)
    frame = storm.get.rank_domain_genes(section, "middle")
    ax = storm.pl.volcano(section, "middle")
    points = np.concatenate([c.get_offsets() for c in ax.collections])
    assert len(points) == 12
    height = -np.log10(frame.set_index("names")["p_spatial_adj"])
    assert points[:, 1].max() == pytest.approx(height.max())
    named = {text.get_text() for text in ax.texts}
    assert {"gene1", "gene3"} <= named
    inside = abs(points[:, 0]).max()
    assert inside < 10  # gene3, absent on one side, stands at the edge
    assert "left, right" in ax.get_title()
    other = storm.pl.volcano(section, "middle", p="pvals", genes="gene5", title="t")
    assert [text.get_text() for text in other.texts] == ["gene5"]
    assert "unadjusted" in other.get_ylabel()


def test_a_domain_may_be_named_by_its_number(section):
    """Domains are called "0", "1", …, and typed as 0, 1, … in every function that takes one."""
    section.obs["storm_domain"] = section.obs["storm_domain"].cat.rename_categories(["0", "1", "2"])
    section.obsm["X_storm"] = np.random.default_rng(0).normal(size=(192, 3))
    storm.tl.rank_domain_genes(section, groups=1, reference=[0, 2], spatial=False)
    storm.pl.volcano(section, 1)
    pd.testing.assert_frame_equal(storm.get.rank_domain_genes(section, 1), storm.get.rank_domain_genes(section, "1"))
    sets = {"a": [f"gene{i}" for i in range(3)]}
    storm.tl.enrich(section, sets, groups=1, method="gsea", min_genes=1)
    pd.testing.assert_frame_equal(storm.get.enrich(section, 1), storm.get.enrich(section, "1"))
    storm.pl.enrichment(section, 1)
    storm.tl.signature(section, domain=1, fdr=1, method="zscore")
    assert section.uns["storm"]["storm_signature"]["domain"] == "1"
    storm.tl.subcluster(section, 1, 2)
    assert set(section.obs["storm_domain_sub"]) == {"0", "1.0", "1.1", "2"}
    with pytest.raises(TypeError, match="groups=None is a NoneType; give the name of a domain"):
        storm.tl.rank_domain_genes(section, groups=None)
    with pytest.raises(ValueError, match="domain names '7'"):
        storm.tl.subcluster(section, 7, 2)


def test_symbols_in_another_column_are_found(section):
    """Of a table whose var_names are ids, what takes symbols says where they are, and what is told works."""
    section.var["symbol"] = [f"SYM{i}" for i in range(12)]
    storm.tl.rank_domain_genes(section, spatial=False, reference="rest")
    genes = ["SYM0", "SYM1"]
    told = r"var\['symbol'\] names them: first table\.var_names = table\.var\['symbol'\]"
    with pytest.raises(ValueError, match=told):
        storm.tl.signature(section, genes)
    with pytest.raises(ValueError, match=told + r".*, then rank the genes again"):
        storm.tl.enrich(section, {"a": genes}, min_genes=1)
    with pytest.raises(ValueError, match=told):
        storm.tl.composition(section, {"a": genes}, method="markers")
    with pytest.raises(KeyError, match=told):
        storm.pl.expression(section, "SYM0")
    with pytest.raises(ValueError, match=r"it names genes like \['gene0', 'gene1', 'gene2'\]$"):
        storm.tl.signature(section, ["OTHER"])
    section.var_names = section.var["symbol"].astype(str)
    section.var_names_make_unique()
    storm.tl.signature(section, genes, method="zscore")
    storm.pl.expression(section, "SYM0")


def test_volcano_names_what_is_missing(section):
    with pytest.raises(KeyError, match=r"run storm\.tl\.rank_domain_genes first"):
        storm.pl.volcano(section, "middle")
    storm.tl.rank_domain_genes(section, spatial=False, reference="rest")
    with pytest.raises(KeyError, match="'top' is not among the domains"):
        storm.pl.volcano(section, "top")
    with pytest.raises(TypeError, match="group=None is a NoneType; name one domain"):
        storm.pl.volcano(section, None)
    with pytest.raises(ValueError, match="p='p_spatial' was not computed"):
        storm.pl.volcano(section, "middle", p="p_spatial")
    with pytest.raises(KeyError, match=r"\['NOPE'\]"):
        storm.pl.volcano(section, "middle", genes="NOPE")
    with pytest.raises(TypeError, match="genes=<NA> is a NAType"):
        storm.pl.volcano(section, "middle", genes=pd.NA)
    assert "adjusted" in storm.pl.volcano(section, "middle").get_ylabel()


def scored() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": ["hvg_pca", "hvg_pca", "hvg_pca", "storm", "storm", "storm"],
            "section": ["a", "a", "b"] * 2,
            "n_domains": 3,
            "ari": [0.1, 0.3, 0.6, 0.5, 0.5, 0.7],
            "seconds": np.nan,
        }
    )


def test_metric_bars_draw_means_over_sections():
    ax = storm.pl.metric_bars(scored())
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.4, 0.6])
    dots = [collection.get_offsets()[:, 1].tolist() for collection in ax.collections]
    assert dots == [pytest.approx([0.2, 0.6]), pytest.approx([0.5, 0.7])]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["hvg_pca", "storm"]
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()
    own = plt.subplots()[1]
    assert storm.pl.metric_bars(scored(), methods=["storm"], colours={"storm": "red"}, ax=own, title="t") is own
    assert own.patches[0].get_facecolor() == (1, 0, 0, 1)
    # what was not measured is no bar
    assert not storm.pl.metric_bars(scored(), "seconds").patches


def of_genes() -> pd.DataFrame:
    keys = {"split": "s", "genes": "train 9", "n_genes": 9, "seed": 0}
    return pd.DataFrame(
        {
            "method": ["storm", "ridge", "ridge", "ridge"],
            "encoder": ["x", "x", "x", "y"],
            "section": ["a", "a", "b", "a"],
            "r": [0.4, 0.1, 0.3, 0.5],
            **keys,
        }
    )


def test_metric_bars_of_genes():
    ax = storm.pl.metric_bars(of_genes(), colours={"ridge": "red"})
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.4, 0.2, 0.5])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["storm", "ridge (x)", "ridge (y)"]
    assert [bar.get_facecolor() == (1, 0, 0, 1) for bar in ax.patches] == [False, True, True]
    assert "r" in ax.get_ylabel()
    with pytest.raises(ValueError, match=r"several lists of genes, \['test 9', 'train 9'\]"):
        storm.pl.metric_bars(pd.concat([of_genes(), of_genes().assign(genes="test 9")]))
    # sections of different splits are different sections
    assert storm.pl.metric_bars(pd.concat([of_genes(), of_genes().assign(split="t", section="c")]))
    with pytest.raises(KeyError, match="by_section"):
        storm.pl.metric_bars(of_genes().drop(columns="r"))


def curves() -> pd.DataFrame:
    keys = {"split": "s", "genes": "train 9", "ranked_on": "training", "encoder": "x"}
    return pd.DataFrame(
        {"method": ["storm", "storm", "knn", "knn"], "n": [1, 10] * 2, "r": [0.5, 0.3, 0.2, 0.1], **keys}
    )


def test_top_n_draws_a_line_for_each_method():
    ax = storm.pl.top_n(curves())
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in lines] == [[0.5, 0.3], [0.2, 0.1]]
    assert "held-out spots of training" in ax.get_xlabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["storm", "knn"]
    flattered = curves().assign(ranked_on="evaluated", r=0.9)
    assert "flatters" in storm.pl.top_n(flattered, methods=["knn"], title="t").get_xlabel()
    both = storm.pl.top_n(pd.concat([curves(), flattered]))
    assert [line.get_linestyle() for line in both.lines if line.get_marker() == "o"] == ["-", "--"] * 2
    assert "dashed" in both.get_xlabel()
    assert len(both.get_legend().get_texts()) == 2


def test_top_n_refuses():
    with pytest.raises(ValueError, match="methods='novae'"):
        storm.pl.top_n(curves(), methods=["novae"])
    with pytest.raises(KeyError, match=r"no column \['ranked_on'\]"):
        storm.pl.top_n(curves().drop(columns="ranked_on"))
    with pytest.raises(ValueError, match=r"several splits, \['s', 't'\]"):
        storm.pl.top_n(pd.concat([curves(), curves().assign(split="t")]))
    with pytest.raises(TypeError):
        storm.pl.top_n(curves(), ax="axes")


def test_metric_bars_refuse():
    with pytest.raises(ValueError, match="metric='r2'"):
        storm.pl.metric_bars(scored(), "r2")
    with pytest.raises(ValueError, match="methods='novae'"):
        storm.pl.metric_bars(scored(), methods=["novae"])
    with pytest.raises(KeyError, match="no column"):
        storm.pl.metric_bars(scored(), "nmi")
    with pytest.raises(ValueError, match=r"several numbers of domains, \[3, 4\]"):
        storm.pl.metric_bars(pd.concat([scored(), scored().assign(n_domains=4)]))
