"""Gene names against a vocabulary, and the normalisations."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy.sparse import csr_matrix

from storm.data._aliases import ALIASES
from storm.data.genes import Vocabulary, best_names, is_gene, match_genes, require_shared, species_of
from storm.data.normalise import log_normalise, standardise

VOCABULARY = Vocabulary(("EPCAM", "ACTB", "Penk", "KRT8"), ("ENSG00000119888", "ENSG00000075624", "", ""))


def test_symbols_case_and_ensembl():
    match = match_genes(["KRT8", "Actb", "ENSG00000119888.17", "PENK", "NOPE", "ENSG00000000001"], VOCABULARY)
    assert match.index.tolist() == [3, 1, 0, 2, -1, -1]
    assert match.matched == ("KRT8",)
    assert match.aliased == {"Actb": "ACTB", "ENSG00000119888.17": "EPCAM", "PENK": "Penk"}
    assert match.missing == ("NOPE", "ENSG00000000001")
    assert match.summary() == {"matched": 1, "aliased": 3, "ambiguous": 0, "missing": 2}


def test_the_closest_name_wins_whatever_the_order():
    for names in (["actb", "ENSG00000075624", "ACTB"], ["ACTB", "actb", "ENSG00000075624"]):
        match = match_genes(names, VOCABULARY)
        assert match.matched == ("ACTB",)
        assert set(match.ambiguous) == {"actb", "ENSG00000075624"}
        assert (match.index >= 0).sum() == 1


def test_of_equally_good_columns_the_first_is_read():
    for names in (["Actb", "actb"], ["actb", "Actb"]):
        match = match_genes(names, VOCABULARY)
        assert match.index.tolist() == [1, -1]
        assert match.aliased == {names[0]: "ACTB"}
        assert match.ambiguous == (names[1],)


def test_a_repeated_name_is_named_as_such():
    match = match_genes(["ACTB", "ACTB", "NOPE", "NOPE", "actb"], VOCABULARY)
    assert match.repeated == ("ACTB",)
    assert match.ambiguous == ("actb",)
    assert match.missing == ("NOPE", "NOPE")
    assert match.index.tolist() == [1, -1, -1, -1, -1]
    assert match.summary() == {"matched": 1, "aliased": 0, "ambiguous": 2, "missing": 2}


def test_ensembl_ids_match_on_either_side():
    """A head that was trained on a table of ids has them in the place of symbols, with the table's versions."""
    head = Vocabulary(("ENSG00000141736.8", "ensmusg00000062312", "KRT8"), ("", "", "ENSG00000170421.3"))
    names = ["ENSG00000141736", "ENSMUSG00000062312.11", "ENSG00000170421.14", "ENSG00000141736.8_PAR_Y"]
    match = match_genes(names, head)
    assert match.index.tolist() == [0, 1, 2, -1]
    assert match.aliased == dict(zip(names, ("ENSG00000141736.8", "ensmusg00000062312", "KRT8"), strict=False))
    assert match.ambiguous == (names[3],)
    assert match_genes(["ENST00000141736", "ENSG0000014173"], head).n_shared == 0


def test_the_column_of_names_that_matches_is_chosen():
    ids, symbols = ["ENSG1", "ENSG2", "ENSG3", "ENSG4", "ENSG5"], ["EPCAM", "ACTB", None, "KRT8", "ACTB"]
    column, names = best_names({"var_names": ids, "symbol": symbols}, VOCABULARY)
    assert column == "symbol"
    assert names.tolist() == ["EPCAM", "ACTB", "ENSG3", "KRT8", "ENSG5"], "names stay unique, and none is empty"
    # The first column stays where it does half as well.
    half = ["EPCAM", "ACTB", "x", "y"]
    assert best_names({"var_names": half, "symbol": ["EPCAM", "ACTB", "Penk", "KRT8"]}, VOCABULARY)[0] == "var_names"
    assert best_names({"var_names": half, "symbol": ["EPCAM"] * 4}, VOCABULARY)[0] == "var_names"
    assert best_names({"var_names": ids, "gene_ids": ids}, VOCABULARY)[0] == "var_names"
    assert best_names({"var_names": ["EPCAM", "x", "y", "z", "w"], "a": symbols}, VOCABULARY)[0] == "a"


def test_what_is_a_gene():
    names = ["ACTB", "CD3E.1", "sgRNA", "MT-CO1", "BLANK_0069", "Negative3", "NEGR1", "antisense_PROKR2"]
    assert is_gene(names).tolist() == [True, True, True, True, False, False, True, False]
    kinds = ["Gene Expression", "Antibody Capture", "CRISPR Guide Capture", np.nan, "Gene Expression", None, "", "x"]
    assert is_gene(names, kinds).tolist() == [True, False, False, True, False, False, True, False]
    biotypes = ["protein_coding", "Peaks", "custom", "lncRNA"]
    assert is_gene(names[:4], biotypes).tolist() == [True, False, False, True]


def test_species_are_told_by_ids_and_by_case():
    human, mouse = [f"KRT{k}" for k in range(20)], [f"Krt{k}" for k in range(20)]
    assert species_of(human) == "human"
    assert species_of(mouse) == "mouse"
    assert species_of([f"ENSG{k:011d}.2" for k in range(20)]) == "human"
    assert species_of([f"ENSMUSG{k:011d}" for k in range(20)]) == "mouse"
    assert species_of(human + mouse) is None
    assert species_of([*human, *mouse[:2]]) == "human"
    assert species_of(human[:9]) is None
    assert species_of([str(k) for k in range(50)]) is None


def test_renamed_genes_are_found_either_way_round():
    new = Vocabulary(("CCN2", "SEPTIN9", "ATP5MK", "Selenop"))
    match = match_genes(["CTGF", "SEPT9", "USMG5", "Sepp1", "CCN3"], new)
    assert match.aliased == {"CTGF": "CCN2", "SEPT9": "SEPTIN9", "USMG5": "ATP5MK", "Sepp1": "Selenop"}
    assert match.missing == ("CCN3",)
    old = Vocabulary(("CTGF", "USMG5"))
    assert match_genes(["CCN2", "Atp5md"], old).aliased == {"CCN2": "CTGF", "Atp5md": "USMG5"}
    # The table has the gene under both names: the vocabulary's own is read, the other reported.
    match = match_genes(["CTGF", "CCN2"], new)
    assert (match.matched, match.ambiguous) == (("CCN2",), ("CTGF",))


def test_alias_table_agrees_with_an_annotation(shared_data):
    """10x names each gene once: a gene with two names there would be two genes, and one with none a slip."""
    lines = (shared_data / "genes" / "human_10x_features.tsv").read_text().splitlines()
    there = {line.split("\t")[1].upper() for line in lines}
    genes = {frozenset((name, *others)) for name, others in ALIASES.items()}
    assert len(genes) > 250
    assert sum(len(names) for names in genes) == len(ALIASES), "a name stands for two genes"
    assert [sorted(names) for names in genes if len(names & there) != 1] == []


def test_too_few_shared_genes_names_the_numbers():
    match = match_genes(["A", "B", "ACTB"], VOCABULARY)
    require_shared(match, VOCABULARY, 1)
    with pytest.raises(ValueError, match=r"only 1 of the table's 3 genes.*model's 4.*at least 2.*'A', 'B'"):
        require_shared(match, VOCABULARY, 2)


def test_vocabulary_is_checked():
    with pytest.raises(ValueError, match="unique"):
        Vocabulary(("A", "A"))
    with pytest.raises(ValueError, match="1 Ensembl"):
        Vocabulary(("A", "B"), ("E",))


def test_log_normalise_is_scanpys():
    dense = np.random.default_rng(0).poisson(1.0, (30, 20)).astype(np.float32)
    dense[3] = 0
    counts = csr_matrix(dense)
    before = counts.copy()
    found = log_normalise(counts)
    adata = AnnData(counts[np.arange(30) != 3].copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(found[np.arange(30) != 3].toarray(), adata.X.toarray(), rtol=1e-5)
    assert found[3].nnz == 0
    assert (before != counts).nnz == 0


def test_standardise():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 3, (4000, 3)).astype(np.float32)
    values[0] = np.nan
    mean, std = np.zeros(3), np.ones(3)
    own = standardise(values, mean, std, within=True)
    assert np.isnan(own[0]).all()
    np.testing.assert_allclose(own[1:].mean(0), 0, atol=0.05)
    np.testing.assert_allclose(own[1:].std(0), 1, atol=0.05)
    np.testing.assert_allclose(standardise(values, mean, std, within=False)[1:], values[1:], rtol=1e-6)
    few = standardise(values[1:3], mean, std, within=True)
    assert np.abs(few).mean() > 1, "two spots must not standardise themselves away"
    wide = values * np.float32([1, 1, 10])
    spreads = standardise(wide, mean, std, within=True, isotropic=True)[1:].std(0)
    assert spreads[2] / spreads[0] == pytest.approx(10, rel=0.1)


def test_isotropic_standardisation_is_by_the_root_mean_square():
    values = np.array([[5.0, -10.0], [10.0, 0.0]], dtype=np.float32)
    # Spreads of 1 and 7 have a root mean square of 5, a mean of 4 and a geometric mean of 2.6.
    found = standardise(values, np.zeros(2), np.array([1.0, 7.0]), within=False, isotropic=True)
    np.testing.assert_allclose(found, values / 5, rtol=1e-6)
    clipped = standardise(values, np.zeros(2), np.array([1.0, 7.0]), within=False, isotropic=True, clip=1.5)
    np.testing.assert_allclose(clipped, [[1, -1.5], [1.5, 0]], rtol=1e-6)
