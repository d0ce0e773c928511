"""``storm.tl.rank_domain_genes``: golden values, scanpy's functions on its result, bad input."""

from __future__ import annotations

import importlib.util

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import storm
from storm._bridge.log_values import read_log_values

ROWS = [[3, 0, 1], [2, 0, 1], [4, 1, 0], [1, 0, 2], [0, 2, 2], [0, 3, 1], [1, 2, 0], [5, 5, 5], [6, 0, 1]]
LABELS = ["0", "0", "0", "1", "1", "2", "2", "3", None]


@pytest.fixture
def golden() -> ad.AnnData:
    """Three domains beside each other, one far away, and a spot without a domain."""
    adata = ad.AnnData(csr_matrix(np.array(ROWS, dtype=np.float32)))
    adata.obs["storm_domain"] = pd.Categorical(LABELS)
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 100, (9, 2))
    return adata


@pytest.fixture
def planted() -> ad.AnnData:
    """Counts of three stripes of 8 × 8 spots; each gene 0–2 marks one, others nothing."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(8) for x in range(24)], dtype=float) * 100
    stripe = (centres[:, 0] // 800).astype(int)
    means = np.full((192, 30), 1.5)
    for gene in range(3):
        means[stripe == gene, gene] = 6
    adata = ad.AnnData(csr_matrix(rng.poisson(means).astype(np.int64)), obsm={"spatial": centres})
    adata.var_names = [f"gene{i}" for i in range(30)]
    adata.obs["storm_domain"] = pd.Categorical(stripe.astype(str))
    adata.obs["slide"] = pd.Categorical((centres[:, 1] // 200).astype(int).astype(str))
    return adata


def test_golden_values_against_a_union(golden):
    storm.tl.rank_domain_genes(golden, reference=["1", "2"], groups=["0"], normalise=False)
    frame = storm.get.rank_domain_genes(golden, "0").set_index("names").loc[["0", "1", "2"]]
    np.testing.assert_allclose(frame["scores"], [2.160247, -1.481917, -0.935414], atol=1e-6)
    np.testing.assert_allclose(frame["pvals"], [0.0307535613, 0.1383623419, 0.3495748061], atol=1e-8)
    np.testing.assert_allclose(frame["pvals_adj"], [0.092261, 0.207544, 0.349575], atol=1e-6)
    np.testing.assert_allclose(frame["auc"], [1, 0.1667, 0.2917], atol=1e-4)
    np.testing.assert_allclose(frame["logfoldchanges"], [4.878737, -3.587165, -1.393790], atol=1e-6)
    np.testing.assert_allclose(frame["pts"], [1, 1 / 3, 2 / 3])
    np.testing.assert_allclose(frame["pts_reference"], [0.5, 0.75, 0.75])


def test_rest_leaves_out_spots_without_a_domain(golden):
    import scanpy as sc

    storm.tl.rank_domain_genes(golden, reference="rest", groups="0", normalise=False, spatial=False)
    ours = storm.get.rank_domain_genes(golden)
    known = golden[golden.obs["storm_domain"].notna().to_numpy()].copy()
    known.uns["log1p"] = {"base": None}
    sc.tl.rank_genes_groups(known, "storm_domain", groups=["0"], method="wilcoxon", tie_correct=True, pts=True)
    theirs = sc.get.rank_genes_groups_df(known, "0")
    assert ours["names"].tolist() == theirs["names"].tolist()
    for column in ("scores", "logfoldchanges", "pvals", "pvals_adj"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-5)
    np.testing.assert_allclose(ours["pts"], theirs["pct_nz_group"])
    np.testing.assert_allclose(ours["pts_reference"], theirs["pct_nz_reference"])
    assert ours["p_spatial"].isna().all()


def test_markers_of_adjacent_domains(planted):
    before = planted.X.copy()
    storm.tl.rank_domain_genes(planted)
    assert (planted.X != before).nnz == 0
    references = planted.uns["storm"]["rank_genes_groups"]["references"]
    assert references.to_numpy().tolist() == [["0", "1"], ["1", "0"], ["1", "2"], ["2", "1"]]
    frame = storm.get.rank_domain_genes(planted)
    for domain in "012":
        own = frame[frame["group"] == domain]
        assert own["names"].iloc[0] == f"gene{domain}"
        assert own["p_spatial_adj"].iloc[0] < 1e-6
        assert own["auc"].iloc[0] > 0.9
        assert (own["p_spatial_adj"].iloc[3:-3] > 0.01).all()


def test_counts_are_normalised_and_log_values_are_taken(planted):
    import scanpy as sc

    storm.tl.rank_domain_genes(planted)
    one = storm.get.rank_domain_genes(planted)
    assert planted.uns["storm"]["rank_genes_groups"]["normalised"]
    logged = planted.copy()
    logged.layers["counts"] = logged.X.copy()
    logged.X = logged.X.astype(np.float32)
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    storm.tl.rank_domain_genes(logged)
    assert not logged.uns["storm"]["rank_genes_groups"]["normalised"]
    # Ties of the last digit differ between the two ways to normalise, as they do within scanpy.
    two = storm.get.rank_domain_genes(logged).set_index(["group", "names"])
    two = two.loc[pd.MultiIndex.from_frame(one[["group", "names"]])]
    np.testing.assert_allclose(two["scores"], one["scores"], atol=0.01)
    np.testing.assert_allclose(two["logfoldchanges"], one["logfoldchanges"], atol=1e-4)
    storm.tl.rank_domain_genes(logged, layer="counts", normalise=True)
    pd.testing.assert_frame_equal(storm.get.rank_domain_genes(logged), one)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_scanpy_reads_the_result_also_from_disk(planted, tmp_path, suffix):
    import matplotlib.pyplot as plt
    import scanpy as sc

    storm.tl.rank_domain_genes(planted, groups=["1", "2"])
    path = tmp_path / f"section{suffix}"
    getattr(planted, "write_h5ad" if suffix == ".h5ad" else "write_zarr")(path)
    back = (ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr)(path)
    pd.testing.assert_frame_equal(storm.get.rank_domain_genes(back), storm.get.rank_domain_genes(planted))
    frame = sc.get.rank_genes_groups_df(back, "1")
    assert frame["names"][0] == "gene1"
    assert {"pct_nz_group", "pct_nz_reference"} <= set(frame.columns)
    sc.pl.rank_genes_groups_dotplot(back, n_genes=2, show=False, dendrogram=False)
    sc.pl.rank_genes_groups(back, n_genes=3, show=False)
    plt.close("all")


@pytest.mark.skipif(importlib.util.find_spec("pydeseq2") is None, reason="needs pydeseq2")
def test_pseudobulk_counts_sections(planted):
    with pytest.raises(ValueError, match=r"at least 3 sections with 10 spots of domain '0'.*library_key="):
        storm.tl.rank_domain_genes(planted, test="pseudobulk")
    storm.tl.rank_domain_genes(planted, test="pseudobulk", library_key="slide", groups=["1"])
    frame = storm.get.rank_domain_genes(planted)
    assert planted.uns["storm"]["rank_genes_groups"]["n_sections"].tolist() == [4]
    assert frame["names"].iloc[0] == "gene1"
    assert frame["pvals_adj"].iloc[0] < 1e-6
    assert frame["logfoldchanges"].iloc[0] == pytest.approx(2, abs=0.4)
    assert frame["p_spatial"].isna().all()
    # the column of the sections is remembered
    storm.tl.rank_domain_genes(planted, test="pseudobulk", groups=["1"], key_added="again")
    pd.testing.assert_frame_equal(storm.get.rank_domain_genes(planted, key_added="again"), frame)
    del planted.uns["storm"]["remembered"]  # the column of the sections
    with pytest.raises(ValueError, match=r"at least 3 sections with 10 spots of domain '0'.*library_key="):
        storm.tl.rank_domain_genes(planted, test="pseudobulk")


def test_genes_that_are_rare_are_not_tested(planted):
    planted.X = planted.X.toarray()
    planted.X[:, 5] = 0
    planted.X[:2, 6] = 1
    planted.X[2:, 6] = 0
    storm.tl.rank_domain_genes(planted, min_pct=0.1)
    frame = storm.get.rank_domain_genes(planted, "0").set_index("names")
    assert frame.loc[["gene5", "gene6"], "pvals"].isna().all()
    assert frame["pvals"].notna().sum() == 28
    storm.tl.rank_domain_genes(planted)
    frame = storm.get.rank_domain_genes(planted, "0").set_index("names")
    # What nobody has is not tested either way, and does not weigh in the rates.
    assert frame["pvals"].index[frame["pvals"].isna()].tolist() == ["gene5"]
    assert frame.loc["gene5", ["p_spatial", "auc", "pvals_adj"]].isna().all()
    assert frame.loc["gene5", "logfoldchanges"] == 0
    least = frame["pvals"].min()
    assert frame.loc[frame["pvals"] == least, "pvals_adj"].iloc[0] == pytest.approx(29 * least)


def test_small_and_lonely_domains_are_named(planted):
    labels = planted.obs["storm_domain"].astype(object)
    labels.iloc[0] = "lonely"
    planted.obs["storm_domain"] = pd.Categorical(labels)
    with pytest.warns(UserWarning, match="'lonely'"):
        storm.tl.rank_domain_genes(planted)
    assert storm.get.rank_domain_genes(planted)["group"].unique().tolist() == ["0", "1", "2"]
    for reference in ("adjacent", "rest"):
        with pytest.raises(ValueError, match=r"no domain can be tested: 'lonely'.*; name larger domains, or others$"):
            storm.tl.rank_domain_genes(planted, reference=reference, groups=["lonely"])
    with pytest.raises(ValueError, match=r"'0' has a reference of fewer than 2 spots.*give reference='rest'$"):
        storm.tl.rank_domain_genes(planted, reference="lonely", groups=["0"])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"reference": "9"}, ValueError, "reference names '9'"),
        ({"reference": ["0", "x"]}, ValueError, "reference names 'x'"),
        ({"groups": ["a"]}, ValueError, "groups names 'a'"),
        ({"groups": []}, ValueError, "groups names nothing"),
        ({"test": "t"}, ValueError, "test='t'"),
        ({"key": "leiden"}, KeyError, "leiden"),
        ({"layer": "counts"}, KeyError, "counts"),
        ({"key_added": "mine"}, ValueError, "holds no ranking of genes"),
        ({"min_pct": 3}, ValueError, "min_pct=3"),
        ({"normalise": "maybe"}, ValueError, "normalise='maybe'"),
        ({"groups": pd.NA}, TypeError, "groups=<NA> is a NAType"),
        ({"reference": pd.NA, "spatial": False}, TypeError, "reference=<NA> is a NAType"),
        ({"reference": 3.5}, TypeError, "reference=3.5 is a float"),
        ({"key_added": "storm"}, ValueError, "key_added='storm' is reserved"),
        ({"key_added": "spatial"}, ValueError, "key_added='spatial' is reserved"),
        ({"key_added": "log1p"}, ValueError, "key_added='log1p' is reserved"),
    ],
)
def test_bad_input(planted, arguments, error, text):
    planted.uns["mine"] = 3
    with pytest.raises(error, match=text):
        storm.tl.rank_domain_genes(planted, **arguments)
    assert set(planted.uns) == {"mine"}


def test_one_domain_is_nothing_to_compare(planted):
    planted.obs["storm_domain"] = pd.Categorical(["0"] * 192)
    with pytest.raises(ValueError, match="at least 2 are needed"):
        storm.tl.rank_domain_genes(planted)


def test_values_on_other_scales_are_refused(planted):
    planted.X = planted.X.toarray() - 1.5
    with pytest.raises(ValueError, match="scaled values"):
        read_log_values(planted)
    planted.X = np.full(planted.shape, 31.5)
    with pytest.raises(ValueError, match="neither counts nor on a log scale"):
        read_log_values(planted)
    planted.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        read_log_values(planted)
    planted.X = np.full(planted.shape, 0.5)
    planted.var_names = ["x"] * 30
    with pytest.raises(ValueError, match="more than once"):
        read_log_values(planted)


def test_fractions_are_not_taken_for_logarithms_in_silence(planted):
    planted.X = planted.X.toarray() * 0.7
    with pytest.warns(UserWarning, match="say normalise=False") as caught:
        storm.tl.signature(planted, ["gene0"], method="zscore")
    assert caught[0].filename == __file__
    assert planted.uns["storm"]["storm_signature"]["normalised"] is False
    assert not read_log_values(planted, normalise=False)[2]
    planted.uns["log1p"] = {"base": None}
    assert not read_log_values(planted)[2]


def test_row_order_does_not_matter(planted):
    order = np.random.default_rng(0).permutation(planted.n_obs)
    mixed = planted[order].copy()
    for adata in (planted, mixed):
        storm.tl.rank_domain_genes(adata)
    one, two = (
        storm.get.rank_domain_genes(adata).sort_values(["group", "names"], ignore_index=True)
        for adata in (planted, mixed)
    )
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_names_with_a_slash_are_stored(planted, tmp_path, suffix):
    planted.obs["storm_domain"] = planted.obs["storm_domain"].cat.rename_categories(["a/b", "a_b", "c"])
    storm.tl.adjacent_domains(planted)
    storm.tl.rank_domain_genes(planted)
    path = tmp_path / f"section{suffix}"
    getattr(planted, "write_h5ad" if suffix == ".h5ad" else "write_zarr")(path)
    back = (ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr)(path)
    frame = storm.get.rank_domain_genes(back, "a/b").set_index("names")
    pd.testing.assert_frame_equal(storm.get.rank_domain_genes(back), storm.get.rank_domain_genes(planted))
    own = (planted.obs["storm_domain"] == "a/b").to_numpy()
    np.testing.assert_allclose(frame.loc[planted.var_names, "pts"], np.asarray((planted.X[own] > 0).mean(axis=0))[0])
    references = back.uns["storm"]["rank_genes_groups"]["references"]
    assert references.to_numpy().tolist() == [["a/b", "a_b"], ["a_b", "a/b"], ["a_b", "c"], ["c", "a_b"]]
    assert "a_b against a/b, c" in storm.pl.volcano(back, "a_b").get_title()


def test_a_ranking_of_scanpy_is_kept(planted):
    import scanpy as sc

    planted.X = planted.X.astype(np.float32)
    sc.pp.log1p(planted)
    sc.tl.rank_genes_groups(planted, "storm_domain", method="wilcoxon")
    before = planted.uns["rank_genes_groups"]
    with pytest.raises(ValueError, match="holds a ranking that scanpy wrote"):
        storm.tl.rank_domain_genes(planted)
    assert planted.uns["rank_genes_groups"] is before
    storm.tl.rank_domain_genes(planted, key_added="beside")
    storm.tl.rank_domain_genes(planted, "slide", key_added="beside")  # its own is replaced
    assert planted.uns["storm"]["beside"]["key"] == "slide"


def test_the_pitch_is_measured_once(planted, monkeypatch):
    from storm.tl import _rank_domain_genes as module

    calls = []
    monkeypatch.setattr(module, "typical_pitch", lambda *places: calls.append(places) or 100.0)
    storm.tl.rank_domain_genes(planted)
    assert len(calls) == 1


@pytest.mark.skipif(importlib.util.find_spec("pydeseq2") is None, reason="needs pydeseq2")
def test_pseudobulk_tests_the_genes_that_are_frequent_enough(planted):
    counts = planted.X.toarray()
    counts[:, 5] = 0
    counts[::16, 5] = 5
    planted.X = counts
    storm.tl.rank_domain_genes(planted, test="pseudobulk", library_key="slide", groups=["1"], min_pct=0.2)
    frame = storm.get.rank_domain_genes(planted).set_index("names")
    assert frame["pvals"].index[frame["pvals"].isna()].tolist() == ["gene5"]
    planted.X = counts * 0 + np.eye(192, 30, dtype=int)
    with pytest.raises(ValueError, match="no gene is left to test: 0 of 30 have 10 counts or more"):
        storm.tl.rank_domain_genes(planted, test="pseudobulk", library_key="slide", groups=["1"])


@pytest.mark.skipif(importlib.util.find_spec("pydeseq2") is None, reason="needs pydeseq2")
def test_control_probes_are_no_genes_whatever_the_scale(planted):
    planted.var_names = ["NegControlProbe_00042", *planted.var_names[1:]]
    with pytest.warns(UserWarning, match="1 control probes"):
        storm.tl.rank_domain_genes(planted, test="pseudobulk", library_key="slide", groups=["1"], normalise=False)
    assert "NegControlProbe_00042" not in set(storm.get.rank_domain_genes(planted)["names"])


@pytest.fixture
def uneven() -> ad.AnnData:
    """Spots that all draw from one profile, those of the right half six times as many counts; gene 0 alone differs."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(12) for x in range(20)], dtype=float) * 100
    right = centres[:, 0] > 950
    means = np.outer(np.where(right, 6, 1), rng.gamma(1, 0.3, 400))
    means[:, 0] = np.where(right, 12, 0.4)
    adata = ad.AnnData(csr_matrix(rng.poisson(means).astype(np.float32)), obsm={"spatial": centres})
    adata.obs["storm_domain"] = pd.Categorical(np.where(right, "deep", "shallow"))
    return adata


def test_depth_alone_makes_genes_differ_unless_it_is_matched(uneven):
    with pytest.warns(UserWarning, match=r"'deep' .*'shallow' 0\..*match_depth=True"):
        storm.tl.rank_domain_genes(uneven, groups=["deep", "shallow"])
    frame = storm.get.rank_domain_genes(uneven, "deep")
    assert (frame["p_spatial_adj"] < 0.05).mean() > 0.5
    before = uneven.X.copy()
    storm.tl.rank_domain_genes(uneven, match_depth=True)
    assert (uneven.X != before).nnz == 0
    frame = storm.get.rank_domain_genes(uneven, "deep").set_index("names")
    assert frame.index[0] == "0"
    assert frame["p_spatial_adj"].iloc[0] < 1e-3
    assert (frame["p_spatial_adj"].iloc[1:] < 0.05).mean() < 0.01
    assert frame["pts_reference"].iloc[0] < 0.5 < frame["pts"].iloc[0]
    record = uneven.uns["storm"]["rank_genes_groups"]
    assert record["match_depth"]
    assert record["depth_ratio"] == pytest.approx([1, 1], abs=0.15)


def test_depth_is_matched_of_counts_only(uneven):
    uneven.layers["log"] = uneven.X.copy()
    uneven.layers["log"].data = np.log1p(uneven.X.data)
    for options in ({"layer": "log"}, {"normalise": False}):
        with pytest.raises(ValueError, match=r"match_depth=True thins counts.*layer="):
            storm.tl.rank_domain_genes(uneven, match_depth=True, **options)
    with pytest.raises(ValueError, match="pseudobulks allow for depth"):
        storm.tl.rank_domain_genes(uneven, match_depth=True, test="pseudobulk")
    with pytest.raises(ValueError, match="match_depth='yes'"):
        storm.tl.rank_domain_genes(uneven, match_depth="yes")
    assert "rank_genes_groups" not in uneven.uns
