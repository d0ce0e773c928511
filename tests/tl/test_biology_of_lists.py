"""The biology of domains over a list of objects: as over one table with ``library_key``, whatever their units."""

from __future__ import annotations

import importlib.util

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import storm

#: Genes of each section; those from 3 on mark nothing.
GENES = 25


def section(seed: int, *, scale: float = 1.0) -> ad.AnnData:
    """Two halves of 6 × 10 spots that touch; gene 0 marks the left one, gene 1 the right, gene 2 the whole section."""
    rng = np.random.default_rng(seed)
    centres = np.array([(x, y) for y in range(6) for x in range(10)], dtype=float) * 100
    right = centres[:, 0] > 450
    means = np.full((60, GENES), 2.0)
    means[~right, 0], means[right, 1], means[:, 2] = 6, 6, 2 + 3 * seed
    adata = ad.AnnData(csr_matrix(rng.poisson(means).astype(np.float32)), obsm={"spatial": centres * scale})
    adata.obs_names = [f"spot {k}" for k in range(60)]
    adata.var_names = [f"gene{k}" for k in range(GENES)]
    adata.obs["storm_domain"] = pd.Categorical(np.where(right, "right", "left"))
    adata.obsm["X_storm"] = rng.normal(size=(60, 4)) + 20 * right[:, None]
    return adata


@pytest.fixture
def sections() -> list[ad.AnnData]:
    return [section(seed) for seed in range(3)]


@pytest.fixture
def joined(sections) -> ad.AnnData:
    return ad.concat({f"data[{k}]": one for k, one in enumerate(sections)}, label="slide", index_unique="-")


def test_what_draws_one_object_says_that_each_holds_the_result(toy) -> None:
    """Functions over a list write one result into each object; plots and getters of it take any one of them."""
    toy["table"].obs["storm_domain"] = toy["table"].obs["domain"].astype("category")
    other = storm.datasets.toy("visium", n=100, seed=1)
    other["table"].obs["storm_domain"] = other["table"].obs["domain"].astype("category")
    storm.tl.adjacent_domains([toy, other])
    for run in (storm.pl.contact, storm.get.adjacent_domains):
        with pytest.raises(TypeError, match=r"got list; give one of them: what was found over a list .* lies in each"):
            run([toy, other])
    with pytest.raises(TypeError, match=r"got dict; .* a list of them in place of the dictionary with \['A'\]"):
        storm.tl.adjacent_domains({"A": toy})
    pd.testing.assert_frame_equal(storm.get.adjacent_domains(toy), storm.get.adjacent_domains(other))


def test_adjacent_domains_of_a_list_are_those_of_one_table(sections, joined):
    storm.tl.adjacent_domains(sections)
    storm.tl.adjacent_domains(joined, library_key="slide")
    want = storm.get.adjacent_domains(joined)
    assert want["edges"].sum() > 0
    for one in sections:
        pd.testing.assert_frame_equal(storm.get.adjacent_domains(one), want)
        assert list(one.uns["storm"]["storm_domain_adjacency"]["objects"]) == ["data[0]", "data[1]", "data[2]"]


@pytest.mark.parametrize("scale", [1.0, 0.013])
def test_genes_of_a_list_are_those_of_one_table_in_any_unit(joined, scale):
    sections = [section(0), section(1, scale=scale), section(2)]
    storm.tl.rank_domain_genes(sections)
    storm.tl.rank_domain_genes(joined, library_key="slide")
    want = storm.get.rank_domain_genes(joined)
    assert want["names"].iloc[0] == "gene0"
    for one in sections:
        found = storm.get.rank_domain_genes(one)
        pd.testing.assert_frame_equal(found.drop(columns=["p_spatial", "p_spatial_adj"]),
                                      want.drop(columns=["p_spatial", "p_spatial_adj"]))  # fmt: skip
        # distances that are as near to one bin as to the next may fall into the other
        np.testing.assert_allclose(np.log(found["p_spatial"]), np.log(want["p_spatial"]), rtol=0.05, atol=0.01)
    # of one section alone the same test has fewer spots
    storm.tl.rank_domain_genes(alone := section(0))
    assert storm.get.rank_domain_genes(alone)["scores"].max() < want["scores"].max()


@pytest.mark.skipif(importlib.util.find_spec("pydeseq2") is None, reason="needs pydeseq2")
def test_pseudobulks_of_a_list_pair_each_section_with_itself(sections, joined):
    storm.tl.rank_domain_genes(sections, test="pseudobulk")
    storm.tl.rank_domain_genes(joined, test="pseudobulk", library_key="slide")
    found = storm.get.rank_domain_genes(sections[1])
    pd.testing.assert_frame_equal(found, storm.get.rank_domain_genes(joined))
    assert sections[0].uns["storm"]["rank_genes_groups"]["n_sections"].tolist() == [3, 3]
    left = found[found["group"] == "left"].set_index("names")
    assert left.loc["gene0", "pvals_adj"] < 1e-4
    assert left.loc["gene2", "pvals_adj"] > 0.05  # differs between sections, not within
    with pytest.raises(ValueError, match=r"at least 3 sections .*'data\[0\]' 30 and 30"):
        storm.tl.rank_domain_genes(sections[:2], test="pseudobulk")


def test_signature_of_a_list_is_one(sections, joined):
    storm.tl.rank_domain_genes(sections[0])
    for options in ({"domain": "left", "top": 1.0, "method": "zscore"}, {"domain": "left", "n_bins": 3}):
        storm.tl.signature(sections, **options)
        genes = storm.get.signature(sections[2])
        assert genes[0] == "gene0"
        storm.tl.signature(joined, genes, **{k: v for k, v in options.items() if k in ("method", "n_bins")})
        scores = np.concatenate([one.obs["storm_signature"] for one in sections])
        np.testing.assert_allclose(scores, joined.obs["storm_signature"])
    storm.tl.rank_domain_genes(sections[1])
    with pytest.raises(ValueError, match=r"different rankings.*rank them together"):
        storm.tl.signature(sections, domain="left")
    with pytest.raises(ValueError, match="different rankings"):
        storm.tl.enrich(sections, {"set": ["gene0", "gene1"]}, min_genes=2)


def test_gene_sets_of_a_list_that_was_ranked_together(sections):
    storm.tl.rank_domain_genes(sections)
    storm.tl.enrich(sections, {"one": ["gene0", "gene3"], "other": ["gene1", "gene4"]}, min_genes=2, p="pvals_adj")
    frames = [storm.get.enrich(one) for one in sections]
    assert frames[0].loc[frames[0]["group"] == "left", "set"].iloc[0] == "one"
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


def test_composition_of_a_list_is_tested_over_all_of_it(sections, joined):
    signature = pd.DataFrame({"l": [9.0, 1, 3], "r": [1.0, 9, 3]}, index=["gene0", "gene1", "gene5"])
    storm.tl.composition(sections, signature, key="storm_domain")
    storm.tl.composition(joined, signature, key="storm_domain", library_key="slide")
    np.testing.assert_allclose(np.vstack([one.obsm["X_composition"] for one in sections]), joined.obsm["X_composition"])
    residual = np.concatenate([one.obs["X_composition_residual"] for one in sections])
    np.testing.assert_allclose(residual, joined.obs["X_composition_residual"])
    for one in sections:
        found, want = storm.get.composition_tests(one), storm.get.composition_tests(joined)
        pd.testing.assert_frame_equal(found.drop(columns=["p_spatial", "p_spatial_adj"]),
                                      want.drop(columns=["p_spatial", "p_spatial_adj"]))  # fmt: skip


def test_embeddings_of_a_list_are_clustered_together(sections, joined):
    joined.obsm["X_storm"] = joined.obsm["X_storm"].astype(np.float32)
    storm.tl.domain_stability(sections, [2, 3], runs=3, truth="storm_domain")
    storm.tl.domain_stability(joined, [2, 3], runs=3, truth="storm_domain")
    pd.testing.assert_frame_equal(storm.get.domain_stability(sections[2]), storm.get.domain_stability(joined))
    assert (storm.get.domain_stability(sections[0]).query("n_domains == 2")["ari_truth"] == 1).all()
    storm.tl.subcluster(sections, "left", 2)
    storm.tl.subcluster(joined, "left", 2)
    found = np.concatenate([one.obs["storm_domain_sub"].astype(str) for one in sections])
    assert found.tolist() == joined.obs["storm_domain_sub"].astype(str).tolist()
    assert set(found) == {"left.0", "left.1", "right"}


def test_genes_that_not_all_have_are_left_out(sections):
    sections[1] = sections[1][:, sections[1].var_names != "gene7"].copy()[:, ::-1].copy()
    storm.tl.rank_domain_genes(sections, groups=["left"])
    names = storm.get.rank_domain_genes(sections[0])["names"]
    assert set(names) == set(sections[0].var_names) - {"gene7"}
    assert names.iloc[0] == "gene0"
    sections[2].var_names = [f"ENSG{k}" for k in range(GENES)]
    with pytest.raises(ValueError, match=r"no gene in common.*ENSG0"):
        storm.tl.rank_domain_genes(sections)


def test_domains_that_not_all_have(sections):
    sections[0].obs["storm_domain"] = pd.Categorical(["right"] * 60, categories=["left", "right"])
    sections[2].obs["storm_domain"] = pd.Categorical([None] * 60)
    storm.tl.adjacent_domains(sections)
    frame = storm.get.adjacent_domains(sections[2])
    assert frame["i"].unique().tolist() == ["left", "right"]
    assert frame.loc[frame["i"] != frame["j"], "edges"].tolist() == [6, 6]
    with pytest.raises(ValueError, match=r"of 2 objects holds 1 domain\(s\) \('right'\)"):
        storm.tl.rank_domain_genes([sections[0], sections[2]])


def test_a_copy_of_a_list_is_a_list(sections):
    copies = storm.tl.adjacent_domains(sections, copy=True)
    assert len(copies) == 3
    assert all("storm" in one.uns for one in copies)
    assert all("storm" not in one.uns for one in sections)


@pytest.mark.parametrize("verb", ["adjacent_domains", "rank_domain_genes", "domain_stability"])
def test_an_error_names_the_object_and_leaves_all_as_they_were(sections, verb):
    del sections[1].obs["storm_domain"], sections[1].obsm["X_storm"]
    with pytest.raises(KeyError, match=r"^.data\[1\]: "):
        getattr(storm.tl, verb)(sections)
    assert all(not one.uns for one in sections)


def test_counts_and_logarithms_are_not_compared(sections):
    sections[1].X = sections[1].X.astype(np.float32)
    sections[1].X.data = np.log1p(sections[1].X.data)
    sections[1].uns["log1p"] = {"base": None}
    with pytest.raises(ValueError, match=r"data\[0\], data\[2\] hold counts and data\[1\] logarithms"):
        storm.tl.rank_domain_genes(sections)
