"""``storm.tl.composition``: planted mixtures, its tests, signatures in all forms."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import storm
from storm.biology.type_tests import compare_types


@pytest.fixture
def planted() -> tuple[ad.AnnData, pd.DataFrame, np.ndarray]:
    """Spots of three types in known fractions; type "b" fills the right half."""
    rng = np.random.default_rng(0)
    signature = pd.DataFrame(
        rng.gamma(0.4, 50, (120, 3)), index=[f"GENE{i}" for i in range(120)], columns=["a", "b", "c"]
    )
    centres = np.array([(x, y) for y in range(10) for x in range(20)], dtype=float) * 100
    right = centres[:, 0] >= 1000
    fractions = rng.dirichlet([2, 2, 2], 200)
    fractions[right] = 0.3 * fractions[right] + [0, 0.7, 0]
    profiles = fractions @ (signature / signature.sum()).to_numpy().T
    adata = ad.AnnData(rng.poisson(profiles * 5000).astype(np.float32), obsm={"spatial": centres})
    adata.var_names = signature.index
    adata.obs["storm_domain"] = pd.Categorical(np.where(right, "right", "left"))
    return adata, signature / signature.sum(), fractions


def test_planted_fractions_come_back(planted):
    adata, signature, fractions = planted
    storm.tl.composition(adata, signature, key="storm_domain")
    found = storm.get.composition(adata)
    assert list(found.columns) == ["a", "b", "c"]
    assert abs(found.to_numpy() - fractions).mean() < 0.03
    assert adata.obs["X_composition_residual"].between(0, 0.5).all()
    facts = adata.uns["storm"]["X_composition"]
    assert (facts["n_genes"], facts["n_genes_found"]) == (120, 120)
    tests = storm.get.composition_tests(adata).set_index(["group", "type"])
    right = tests.loc[("right", "b")]
    assert right["rank_biserial"] > 0.9
    assert right["pvals_adj"] < 1e-10
    assert right["p_spatial_adj"] < 0.01
    assert right["mean"] == pytest.approx(fractions[adata.obs["storm_domain"] == "right", 1].mean(), abs=0.03)
    assert tests.loc[("left", "b"), "rank_biserial"] == pytest.approx(-right["rank_biserial"])
    # computed again, over its own results
    storm.tl.composition(adata, signature)
    with pytest.raises(KeyError, match="without domains"):
        storm.get.composition_tests(adata)


def test_golden_test_between_domains():
    values = np.array([0.5, 0.6, 0.7, 0.1, 0.2, 0.55, 0.3])[:, None]
    test = compare_types(values, np.arange(7) < 3)
    assert test.u[0] == 11
    assert test.p[0] == pytest.approx(4 / 35)
    assert test.rank_biserial[0] == pytest.approx(0.8333333333)
    constant = compare_types(np.ones((7, 1)), np.arange(7) < 3)
    assert constant.p[0] == 1
    assert constant.rank_biserial[0] == 0


def test_nusvr_of_domains(planted):
    adata, signature, fractions = planted
    storm.tl.composition(adata, signature, method="nusvr", key="storm_domain")
    assert "X_composition" not in adata.obsm
    found = storm.get.composition_tests(adata).pivot(index="group", columns="type", values="mean")
    for side in ("left", "right"):
        expected = fractions[adata.obs["storm_domain"] == side].mean(axis=0)
        np.testing.assert_allclose(found.loc[side, ["a", "b", "c"]], expected, atol=0.05)
    with pytest.raises(KeyError, match="composition_tests"):
        storm.get.composition(adata)
    with pytest.raises(ValueError, match="name their column with key="):
        storm.tl.composition(adata, signature, method="nusvr")


def test_markers(planted):
    adata, signature, fractions = planted
    best = signature.idxmax(axis=1)
    markers = {name: list(best.index[(best == name) & (signature[name] > 0.02)]) for name in "abc"}
    storm.tl.composition(adata, markers, method="markers", key="storm_domain", spatial=False)
    scores = storm.get.composition(adata)
    assert np.corrcoef(scores["b"], fractions[:, 1])[0, 1] > 0.8
    assert storm.get.composition_tests(adata)["p_spatial"].isna().all()


def test_a_method_gets_the_kind_of_signature_it_needs(planted):
    adata, signature, _ = planted
    with pytest.raises(ValueError, match="use method='nnls'"):
        storm.tl.composition(adata, signature, method="markers")
    best = signature.idxmax(axis=1)
    markers = {name: list(best.index[best == name]) for name in "abc"}
    table = pd.DataFrame({name: (best == name).astype(int) for name in "abc"})
    for method in ("nnls", "nusvr"):
        for given in (markers, table):
            with pytest.raises(ValueError, match="use method='markers'"):
                storm.tl.composition(adata, given, method=method, key="storm_domain")
    with pytest.raises(TypeError, match=r"signature\['a'\] is 'GENE1'"):
        storm.tl.composition(adata, {"a": "GENE1"}, method="markers")
    assert "storm" not in adata.uns
    storm.tl.composition(adata, markers, method="markers")
    one = storm.get.composition(adata)
    storm.tl.composition(adata, table, method="markers")
    pd.testing.assert_frame_equal(storm.get.composition(adata), one)
    assert adata.uns["storm"]["X_composition"]["normalised"] is True


def test_no_part_of_another_methods_result_stays(planted):
    adata, signature, _ = planted
    markers = {"a": ["GENE1"], "b": ["GENE2"], "c": ["GENE3"]}
    storm.tl.composition(adata, signature)
    before = adata.copy()
    with pytest.raises(ValueError, match=r"obsm\['X_composition'\] and obs\['X_composition_residual'\] would stay"):
        storm.tl.composition(adata, signature.rename(columns=str.upper), method="nusvr", key="storm_domain")
    with pytest.raises(ValueError, match=r"of which obs\['X_composition_residual'\] would stay"):
        storm.tl.composition(adata, markers, method="markers")
    pd.testing.assert_frame_equal(storm.get.composition(adata), storm.get.composition(before))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    del adata.obs["X_composition_residual"]
    storm.tl.composition(adata, markers, method="markers")
    storm.tl.composition(adata, signature)
    del adata.obsm["X_composition"], adata.obs["X_composition_residual"]
    storm.tl.composition(adata, signature, method="nusvr", key="storm_domain")
    storm.tl.composition(adata, signature)
    assert list(storm.get.composition(adata)) == ["a", "b", "c"]


def test_signatures_of_cells_and_files(planted, tmp_path):
    adata, signature, fractions = planted
    rng = np.random.default_rng(1)
    types = np.repeat(["a", "b", "c"], 50)
    cells = ad.AnnData(rng.poisson(signature[types].to_numpy().T * 3000).astype(np.float32))
    cells.var_names = signature.index
    cells.obs["type"] = types
    storm.tl.composition(adata, cells, label_key="type")
    one = storm.get.composition(adata)
    assert abs(one.to_numpy() - fractions).mean() < 0.03
    with pytest.raises(KeyError, match="label_key="):
        storm.tl.composition(adata, cells)
    signature.to_csv(tmp_path / "signature.txt", sep="\t")
    storm.tl.composition(adata, tmp_path / "signature.txt")
    two = storm.get.composition(adata)
    storm.tl.composition(adata, signature)
    pd.testing.assert_frame_equal(two, storm.get.composition(adata))


def test_missing_genes_are_counted(planted):
    adata, signature, _ = planted
    half = adata[:, :50].copy()
    with pytest.warns(UserWarning, match="only 50 of the signature's 120 genes"):
        storm.tl.composition(half, signature)
    with pytest.raises(ValueError, match=r"none of the signature's 120 genes .*'OTHER0'"):
        storm.tl.composition(adata, signature.set_axis([f"OTHER{i}" for i in range(120)]))


def test_spots_without_counts_are_nan(planted):
    adata, signature, _ = planted
    adata.X[3] = 0
    adata.obs.loc[adata.obs_names[5], "storm_domain"] = np.nan
    storm.tl.composition(adata, signature, key="storm_domain")
    assert storm.get.composition(adata).isna().all(axis=1).to_numpy().nonzero()[0].tolist() == [3]
    assert storm.get.composition_tests(adata)["pvals"].notna().all()


@pytest.mark.parametrize(
    ("signature", "error", "text"),
    [
        (3, TypeError, "int"),
        ("til", FileNotFoundError, "'til' is not a file"),
        (pd.DataFrame({"a": [1.0, 2]}, index=["GENE1", "GENE1"]), ValueError, "more than once"),
        (pd.DataFrame({"a": [-1.0, 2]}, index=["GENE1", "GENE2"]), ValueError, "linear scale"),
        (pd.DataFrame({"a": ["x", "y"]}, index=["GENE1", "GENE2"]), ValueError, "without numbers"),
    ],
)
def test_bad_signatures(planted, signature, error, text):
    with pytest.raises(error, match=text):
        storm.tl.composition(planted[0], signature)
    assert "storm" not in planted[0].uns


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_result_survives_storage(planted, tmp_path, suffix):
    adata, signature, _ = planted
    storm.tl.composition(adata, signature, key="storm_domain")
    path = tmp_path / f"section{suffix}"
    getattr(adata, "write_h5ad" if suffix == ".h5ad" else "write_zarr")(path)
    back = (ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr)(path)
    pd.testing.assert_frame_equal(
        storm.get.composition_tests(back), storm.get.composition_tests(adata), check_dtype=False
    )
    pd.testing.assert_frame_equal(storm.get.composition(back), storm.get.composition(adata), check_names=False)


def test_plot_draws_the_table(planted):
    adata, signature, _ = planted
    with pytest.raises(KeyError, match=r"storm\.tl\.composition first"):
        storm.pl.composition(adata)
    storm.tl.composition(adata, signature, key="storm_domain")
    ax = storm.pl.composition(adata)
    tests = storm.get.composition_tests(adata)
    drawn = ax.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(drawn.T.ravel(), tests["rank_biserial"])
    assert len(ax.patches) == (tests["p_spatial_adj"] <= 0.05).sum()
    storm.tl.composition(adata, signature, method="nusvr", key="storm_domain", key_added="svr")
    assert storm.pl.composition(adata, key_added="svr").images[0].norm.vmin == 0
    plt.close("all")


def test_public_signatures(shared_data):
    til10 = storm.datasets.signatures(path=shared_data)
    assert til10.shape == (170, 10)
    assert til10.loc["ADAM6", "B.cells"] == pytest.approx(311.524, abs=1e-3)
    markers = storm.datasets.signatures("mcp", path=shared_data)
    assert markers.shape == (111, 10)
    assert markers["T cells"].sum() == 16
    with pytest.raises(ValueError, match="'lm22'"):
        storm.datasets.signatures("lm22")


def test_scores_of_markers_follow_the_depth_unless_it_is_matched():
    """Half of the spots draw six times as many counts, all from one profile; type "b" is planted in the other half."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(10) for x in range(20)], dtype=float) * 100
    right = centres[:, 0] >= 1000
    means = np.outer(np.where(right, 6, 1), rng.gamma(1, 0.3, 300))
    means[:, 5:10] = np.where(right, 0.3, 1)[:, None]
    adata = ad.AnnData(rng.poisson(means).astype(np.float32), obsm={"spatial": centres})
    adata.obs["storm_domain"] = pd.Categorical(np.where(right, "right", "left"))
    markers = {"a": [str(k) for k in range(5)], "b": [str(k) for k in range(5, 10)]}
    options = {"method": "markers", "key": "storm_domain"}
    with pytest.warns(UserWarning, match="match_depth=True"):
        storm.tl.composition(adata, markers, **options)
    scores = adata.obsm["X_composition"].copy()
    tests = storm.get.composition_tests(adata).set_index(["group", "type"])
    assert tests.loc[("right", "a"), "p_spatial_adj"] < 1e-3
    storm.tl.composition(adata, markers, match_depth=True, **options)
    np.testing.assert_array_equal(adata.obsm["X_composition"], scores)
    matched = storm.get.composition_tests(adata).set_index(["group", "type"])
    assert matched.loc[("right", "a"), "p_spatial_adj"] > 0.05
    assert matched.loc[("left", "b"), "p_spatial_adj"] < 1e-3
    assert matched.loc[("left", "b"), "rank_biserial"] > tests.loc[("left", "b"), "rank_biserial"]
    pd.testing.assert_series_equal(matched["mean"], tests["mean"])
    adata.layers["log"] = np.log1p(adata.X)
    for wrong in ({"layer": "log"}, {"key": None}):
        with pytest.raises(ValueError, match="match_depth=True"):
            storm.tl.composition(adata, markers, match_depth=True, **{**options, **wrong})


def test_one_domain_and_genes_that_nobody_has(planted):
    adata, signature, _ = planted
    adata.obs["storm_domain"] = pd.Categorical(["all"] * adata.n_obs)
    storm.tl.composition(adata, signature, key="storm_domain", match_depth=True)
    tests = storm.get.composition_tests(adata)
    assert tests["mean"].notna().all()
    assert tests["pvals"].isna().all()
    adata.X[:, :10] = 0
    with pytest.raises(ValueError, match="10 genes that are in the table was seen in any spot"):
        storm.tl.composition(adata, signature.iloc[:10], key_added="X_none")
