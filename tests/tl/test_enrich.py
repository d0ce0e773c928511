"""``storm.tl.enrich`` and ``storm.datasets.gene_sets``."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import storm


@pytest.fixture
def ranked() -> ad.AnnData:
    """Two halves; the first twelve genes are higher in one of them, the next twelve in the other one."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(10) for x in range(20)], dtype=float) * 100
    right = centres[:, 0] >= 1000
    means = np.full((200, 80), 2.0)
    means[np.ix_(right, range(12))] = 5
    means[np.ix_(~right, range(12, 24))] = 5
    adata = ad.AnnData(rng.poisson(means).astype(np.float32), obsm={"spatial": centres})
    adata.var_names = [f"GENE{i}" for i in range(80)]
    adata.obs["storm_domain"] = pd.Categorical(np.where(right, "right", "left"))
    storm.tl.rank_domain_genes(adata)
    return adata


SETS = {
    "of the right": [f"GENE{i}" for i in range(12)],
    "of the left": [f"GENE{i}" for i in range(12, 24)],
    "of none": [f"GENE{i}" for i in range(30, 60)],
    "small": ["GENE1", "GENE2"],
    "elsewhere": [f"OTHER{i}" for i in range(30)],
}


def test_over_representation(ranked, caplog):
    with caplog.at_level(logging.INFO, logger="storm"):
        storm.tl.enrich(ranked, SETS)
    assert "2 of 5 gene sets are left out: 2 with fewer than 10 tested genes" in caplog.text
    facts = ranked.uns["storm"]["enrichment"]
    assert facts["left_out"] == {"fewer than 10 tested genes": 2}
    assert facts["p"] == "p_spatial_adj"
    frame = storm.get.enrich(ranked)
    assert len(frame) == 6
    top = frame.groupby("group").head(1).set_index("group")
    assert top["set"].to_dict() == {"left": "of the left", "right": "of the right"}
    assert (top["n_overlap"] == 12).all()
    assert (top["pvals_adj"] < 1e-6).all()
    assert set(top.loc["right", "genes"].split(",")) == set(SETS["of the right"])
    assert storm.get.enrich(ranked, "left")["group"].unique().tolist() == ["left"]
    storm.tl.enrich(ranked, SETS, direction="down", groups="right")
    assert storm.get.enrich(ranked)["set"].iloc[0] == "of the left"


def test_gsea(ranked):
    storm.tl.enrich(ranked, SETS, method="gsea", key_added="gsea")
    frame = storm.get.enrich(ranked, "right", key_added="gsea").set_index("set")
    assert frame.loc["of the right", "nes"] > 1.5
    assert frame.loc["of the left", "nes"] < -1.5
    assert frame.loc[["of the right", "of the left"], "pvals_adj"].max() < 0.01
    assert frame.loc["of none", "pvals"] > 0.05


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_result_survives_storage(ranked, tmp_path, suffix):
    storm.tl.enrich(ranked, SETS)
    path = tmp_path / f"section{suffix}"
    getattr(ranked, "write_h5ad" if suffix == ".h5ad" else "write_zarr")(path)
    back = (ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr)(path)
    pd.testing.assert_frame_equal(storm.get.enrich(back), storm.get.enrich(ranked), check_dtype=False)


def test_sets_from_a_file(ranked, tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_bytes("".join(f"{name}\t\t" + "\t".join(genes) + "\r\n" for name, genes in SETS.items()).encode())
    one = storm.tl.enrich(ranked, path, copy=True)
    assert "enrichment" not in ranked.uns["storm"]
    storm.tl.enrich(ranked, SETS)
    pd.testing.assert_frame_equal(storm.get.enrich(one), storm.get.enrich(ranked))


def test_no_gene_of_the_sets_is_in_the_table(ranked):
    with pytest.raises(ValueError, match=r"0 of their 30 genes .*'OTHER0'.*symbols of the same species"):
        storm.tl.enrich(ranked, {"elsewhere": SETS["elsewhere"]})
    with pytest.warns(UserWarning, match="no gene of 'right' has p_spatial_adj <= 0"):
        storm.tl.enrich(ranked, SETS, groups=["right"], fdr=0)
    assert (storm.get.enrich(ranked)["pvals"] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"method": "m"}, ValueError, "method='m'"),
        ({"groups": "top"}, KeyError, "top"),
        ({"direction": "both"}, ValueError, "direction='both'"),
        ({"fdr": 2}, ValueError, "fdr=2"),
        ({"max_genes": 3}, ValueError, "max_genes=3"),
        ({"max_genes": 11}, ValueError, "from min_genes=10 to max_genes=11 of the genes"),
        ({"sets": {"T": "GENE1"}}, TypeError, r"sets\['T'\] is 'GENE1'"),
        ({"sets": {"T": 3}}, TypeError, r"sets\['T'\] is 3"),
        ({"key": "nothing"}, KeyError, "rank_domain_genes first"),
        ({"sets": "/no/such.gmt"}, FileNotFoundError, "no GMT file '/no/such.gmt'"),
        ({"sets": "."}, FileNotFoundError, "no GMT file"),
        ({"sets": None}, TypeError, "sets=None"),
        ({"groups": []}, ValueError, "groups is empty"),
    ],
)
def test_bad_input(ranked, arguments, error, text):
    with pytest.raises(error, match=text):
        storm.tl.enrich(ranked, **{"sets": SETS, **arguments})
    assert "enrichment" not in ranked.uns["storm"]
    with pytest.raises(KeyError, match=r"run storm\.tl\.enrich first"):
        storm.get.enrich(ranked)


def test_sets_may_be_read_only_once(ranked):
    once = storm.tl.enrich(ranked, {name: iter(genes) for name, genes in SETS.items()}, copy=True)
    storm.tl.enrich(ranked, SETS)
    pd.testing.assert_frame_equal(storm.get.enrich(once), storm.get.enrich(ranked))


def test_a_result_of_another_tool_is_no_table(ranked):
    for show in (storm.get.enrich, storm.get.domain_stability, storm.get.composition_tests, storm.pl.composition):
        with pytest.raises(KeyError, match=r"\['rank_genes_groups'\] holds no data frame: storm\.tl"):
            show(ranked, key_added="rank_genes_groups")


def test_plot_draws_the_table(ranked):
    storm.tl.enrich(ranked, SETS)
    ax = storm.pl.enrichment(ranked, "right", n_sets=2)
    frame = storm.get.enrich(ranked, "right").query("n_overlap > 0").head(2)
    assert [label.get_text() for label in ax.get_yticklabels()] == frame["set"].tolist()[::-1]
    x = ax.collections[1].get_offsets()[:, 0]
    np.testing.assert_allclose(x, (frame["n_overlap"] / frame["expected"]).to_numpy()[::-1])
    with pytest.raises(KeyError, match="'top'"):
        storm.pl.enrichment(ranked, "top")
    with pytest.raises(KeyError, match="'None'"):
        storm.pl.enrichment(ranked, None)
    with pytest.raises(ValueError, match="raise max_p"):
        storm.pl.enrichment(ranked, "right", max_p=0)
    storm.tl.enrich(ranked, SETS, method="gsea")
    assert "score" in storm.pl.enrichment(ranked, "left").get_xlabel()
    plt.close("all")


def test_no_sets_at_all(ranked):
    with pytest.raises(ValueError, match="sets is empty"):
        storm.tl.enrich(ranked, {})


def test_public_collections(shared_data):
    human = storm.datasets.gene_sets(path=shared_data)
    assert len(human) == 50
    assert "VEGFA" in human["HALLMARK_HYPOXIA"]
    assert "Vegfa" in storm.datasets.gene_sets(species="mouse", path=shared_data)["HALLMARK_HYPOXIA"]
    assert len(storm.datasets.gene_sets("reactome", path=shared_data)) > 2000
    processes = storm.datasets.gene_sets("go_bp", path=shared_data)
    assert "AKT3" in processes["mitochondrial genome maintenance (GO:0000002)"]


def test_collections_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no genesets/go_bp_human\.gmt; .*c5\.go\.bp"):
        storm.datasets.gene_sets("go_bp", path=tmp_path)
    with pytest.raises(ValueError, match="'kegg'"):
        storm.datasets.gene_sets("kegg")
    with pytest.raises(FileNotFoundError, match="no such sets of mouse"):
        storm.datasets.gene_sets("reactome", species="mouse", path=tmp_path)
    with pytest.raises(ValueError, match="verified by its own"):
        storm.datasets.gene_sets(sha256="0" * 64)
    (tmp_path / "genes").mkdir()
    (tmp_path / "genes" / "hallmarks_pathways_human.json").write_text("{}")
    with pytest.raises(ValueError, match="not the published file"):
        storm.datasets.gene_sets(path=tmp_path)


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A folder in place of the web, by the name of a file, and a cache of its own; asked for nothing else."""
    import pooch

    asked = []

    def download(url: str, output_file: str, _pooch: object) -> None:
        asked.append(url)
        source = tmp_path / "web" / url.rpartition("/")[2]
        if not source.is_file():
            raise ConnectionError(url)
        Path(output_file).write_bytes(source.read_bytes())

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: download)
    (tmp_path / "web").mkdir()
    monkeypatch.setattr(storm.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(storm.settings, "data_dir", None)
    return tmp_path, asked


def test_the_first_download_is_trusted_and_held_to(web):
    folder, asked = web
    file = "m5.go.bp.v2024.1.Mm.symbols.gmt"
    text = "GOBP_ONE\thttps://x\tVegfa\tKdr\nGOBP_TWO\thttps://y\tPecam1\n"
    (folder / "web" / file).write_text(text)
    want = {"GOBP_ONE": ["Vegfa", "Kdr"], "GOBP_TWO": ["Pecam1"]}
    digest = hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(ValueError, match=f"its sha256 is {digest}, not 0000"):
        storm.datasets.gene_sets("go_bp", species="mouse", sha256="0" * 64)
    assert storm.datasets.gene_sets("go_bp", species="mouse", sha256=digest) == want
    assert asked == [f"https://data.broadinstitute.org/gsea-msigdb/msigdb/release/2024.1.Mm/{file}"] * 2
    (folder / "web" / file).write_text(text + "GOBP_THREE\t\tTek\n")
    assert storm.datasets.gene_sets("go_bp", species="mouse") == want  # from the cache
    assert len(asked) == 2
    with pytest.raises(ValueError, match="not what sha256= says"):
        storm.datasets.gene_sets("go_bp", species="mouse", sha256="f" * 64)
    (folder / "cache" / "genesets" / file).write_text(text.replace("Kdr", "Kdrl"))
    with pytest.raises(ValueError, match="is not what was fetched first"):
        storm.datasets.gene_sets("go_bp", species="mouse")


def test_an_error_page_is_not_kept(web):
    folder, asked = web
    with pytest.raises(
        FileNotFoundError, match=r"c2\.cp\.reactome.*ConnectionError.*genesets/reactome_2024-09-18\.gmt"
    ):
        storm.datasets.gene_sets("reactome")
    page = folder / "web" / "c2.cp.reactome.v2024.1.Hs.symbols.gmt"
    page.write_text("<html>busy</html>")
    with pytest.raises(ValueError, match="GMT"):
        storm.datasets.gene_sets("reactome")
    page.write_text("REACTOME_X\t\tA\tB\n")
    assert storm.datasets.gene_sets("reactome") == {"REACTOME_X": ["A", "B"]}
    assert len(asked) == 3
    # a mirror comes first
    (folder / "mirror" / "genesets").mkdir(parents=True)
    (folder / "mirror" / "genesets" / "reactome_2020.gmt").write_text("Mine\tR-HSA-1\tA\n")
    storm.settings.data_dir = folder / "mirror"
    assert list(storm.datasets.gene_sets("reactome")) == ["Mine"]
    with pytest.raises(ValueError, match="sha256"):
        storm.datasets.gene_sets("reactome", sha256="0" * 64)
