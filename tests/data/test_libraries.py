"""Library sizes of sections that measure different genes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from storm.data.genes import Vocabulary, as_symbols
from storm.data.libraries import Library, shared_library
from storm.data.normalise import log_normalise

GENES = [f"G{i}" for i in range(60)]


def totals(counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=0).astype(float)


def test_the_same_spots_on_two_panels_get_the_same_expression():
    counts = np.random.default_rng(0).poisson(3, size=(30, 60))
    panel = np.arange(10, 60, 2)
    names = [GENES, [GENES[i].lower() for i in panel]]
    library, shares = shared_library(names, [totals(counts), totals(counts[:, panel])])
    assert library.genes == tuple(sorted(GENES[i] for i in panel))
    assert str(library) == "25 common genes"
    assert shares == [pytest.approx(counts[:, panel].sum() / counts.sum()), 1.0]
    whole = log_normalise(csr_matrix(counts), library=library.columns(names[0])).toarray()
    part = log_normalise(csr_matrix(counts[:, panel]), library=library.columns(names[1])).toarray()
    np.testing.assert_allclose(whole[:, panel], part, rtol=1e-6)
    np.testing.assert_allclose(np.expm1(whole[:, panel]).sum(axis=1), 1e4, rtol=1e-4)
    # Genes that only one section measures are on the same scale.
    expected = np.log1p(counts / counts[:, panel].sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(whole, expected, rtol=1e-5)


@pytest.mark.parametrize(("rare", "everything"), [(0.04, True), (0.06, False)])
def test_all_genes_are_the_library_while_the_others_hold_a_twentieth(rare, everything):
    """30 genes are common; the others hold a share of the first section's counts."""
    counts = np.full((1, 60), (1 - rare) / 30)
    counts[:, 30:] = rare / 30
    library, shares = shared_library([GENES, GENES[:30]], [totals(counts), totals(counts[:, :30])])
    assert (library == Library()) is everything
    assert (library.columns(GENES) is None) is everything
    assert min(shares) == pytest.approx(1 - rare)
    assert ("all training sections" in library.units) is not everything


@pytest.mark.parametrize(("n", "words"), [(0, "have no gene in common"), (19, "have 19 genes in common")])
def test_too_little_in_common_is_refused(n, words):
    other = GENES[:n] + [f"X{i}" for i in range(40)]
    with pytest.raises(ValueError, match=words):
        shared_library([GENES, other], [np.ones(60), np.ones(len(other))])


def test_a_spot_without_counts_in_the_library_stays_empty():
    counts = csr_matrix(np.array([[0, 5, 1], [2, 0, 0]]))
    out = log_normalise(counts, library=np.array([True, False, False]))
    assert out[0].nnz == 0
    assert out[1, 0] == pytest.approx(np.log1p(1e4))


def test_ensembl_ids_become_symbols_where_they_are_known():
    known = Vocabulary(("EPCAM", "KRT8"), ("ENSG00000119888", "ENSG00000170421"))
    names = ["ENSG00000119888.12", "ensg00000170421", "ENSG00000000003.15", "Krt18"]
    assert as_symbols(names, known) == ["EPCAM", "KRT8", "ENSG00000000003", "Krt18"]
    # No two columns get one name.
    assert as_symbols(["KRT8", "ENSG00000170421"], known) == ["KRT8", "ENSG00000170421"]
    twice = ["ENSG00000170421.1", "ENSG00000170421.2"]
    assert as_symbols(twice, known) == ["KRT8", twice[1]]
    assert as_symbols(names, Vocabulary(())) == ["ENSG00000119888", "ENSG00000170421", "ENSG00000000003", "Krt18"]
