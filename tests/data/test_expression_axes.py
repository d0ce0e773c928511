"""Principal axes of expression, of one section and of several."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from storm.data import expression_axes
from storm.data.expression_axes import fit_axes, median_counts
from storm.data.normalise import log_normalise


def section(seed: int, n: int = 60, *, boost: float = 6.0, shift: float = 1.0) -> csr_matrix:
    rng = np.random.default_rng(seed)
    rates = rng.gamma(1.0, 3.0, size=(n, 30))
    rates[: n // 2, :10] *= boost
    rates[:, 20:] *= shift
    return csr_matrix(rng.poisson(rates).astype(np.float32))


def together(*sections: csr_matrix) -> list[tuple[csr_matrix, np.ndarray]]:
    return [(counts, np.arange(counts.shape[0])) for counts in sections]


def test_one_section_is_a_principal_component_analysis(monkeypatch):
    monkeypatch.setattr(expression_axes, "_BLOCK", 7)
    counts = section(0)
    axes = fit_axes(together(counts), n_genes=12, n_components=4)
    assert axes.target_sum == np.median(np.asarray(counts.sum(axis=1)))
    x = log_normalise(counts, target_sum=axes.target_sum).toarray()
    genes = np.sort(np.argsort(-x.var(axis=0))[:12])
    np.testing.assert_array_equal(axes.genes, genes)
    left, size, _ = np.linalg.svd(x[:, genes] - x[:, genes].mean(axis=0), full_matrices=False)
    found = axes.scores(counts)
    np.testing.assert_allclose(abs(found), abs(left[:, :4] * size[:4]), atol=1e-3)
    assert (axes.loadings.max(axis=0) == abs(axes.loadings).max(axis=0)).all()


@pytest.mark.parametrize("centre", ["each", "together"])
def test_several_sections_are_those_stacked(centre):
    first, second = section(0), section(1, n=90, shift=3.0)
    axes = fit_axes(together(first, second), n_genes=15, n_components=5, centre=centre)
    logs = [log_normalise(counts, target_sum=axes.target_sum).toarray() for counts in (first, second)]
    assert axes.target_sum == median_counts(together(first, second))
    genes = np.sort(np.argsort(-np.mean([x.var(axis=0) for x in logs], axis=0))[:15])
    np.testing.assert_array_equal(axes.genes, genes)
    middle = [x[:, genes].mean(axis=0) for x in logs]
    if centre == "together":
        middle = [np.vstack(logs)[:, genes].mean(axis=0)] * 2
    x = np.vstack([part[:, genes] - mean for part, mean in zip(logs, middle, strict=True)])
    _, _, right = np.linalg.svd(x, full_matrices=False)
    found = np.vstack([axes.scores(first, section=0), axes.scores(second, section=1)])
    np.testing.assert_allclose(abs(found), abs(x @ right[:5].T), atol=1e-3)


def test_a_shift_between_sections_is_an_axis_only_if_they_are_centred_together():
    first, second = section(0, boost=1.0), section(1, boost=1.0, shift=20.0)
    sections = together(first, second)

    def apart(centre: str) -> float:
        axes = fit_axes(sections, n_components=1, centre=centre)
        a, b = axes.scores(first, section=0), axes.scores(second, section=1)
        return float(abs(a.mean() - b.mean()) / np.concatenate([a, b]).std())

    assert apart("together") > 1.5
    assert apart("each") < 1e-3


def test_order_of_rows_and_sections_changes_nothing():
    first, second = section(0), section(1)
    wanted = fit_axes(together(first, second), n_components=3)
    rows = np.random.default_rng(0).permutation(60)
    found = fit_axes(together(second, first[rows]), n_components=3)
    np.testing.assert_allclose(found.loadings, wanted.loadings, atol=1e-4)
    np.testing.assert_allclose(found.scores(first, section=1), wanted.scores(first, section=0), atol=1e-3)


def test_sections_are_read_one_after_the_other():
    class Study:
        passes = 0

        def __iter__(self):
            Study.passes += 1
            yield from together(section(0), section(1))

    wanted = fit_axes(together(section(0), section(1)))
    np.testing.assert_array_equal(fit_axes(Study()).loadings, wanted.loadings)
    assert Study.passes == 3
    fit_axes(Study(), target_sum=50.0)
    assert Study.passes == 5


def test_of_genes_that_vary_equally_the_first_are_taken():
    """Six hundred columns, every other one the same, most variable gene: a sort that is not stable mixes them."""
    equal = np.zeros((64, 600), dtype=np.float32)
    own = 1 + np.arange(299) * 2
    equal[:, own] = np.random.default_rng(0).integers(0, 60, size=(64, 1))
    equal[:, 0] = 1_000_000 - equal.sum(axis=1)  # all rows have one total, so that normalisation adds no variance
    assert fit_axes(together(csr_matrix(equal)), n_genes=70).genes.tolist() == own[:70].tolist()


def test_large_sections_are_fitted_on_some_of_their_rows():
    counts = section(0, n=400)
    some = fit_axes([(counts, np.arange(0, 400, 4))], n_components=2, target_sum=90.0)
    found = fit_axes(together(counts), n_components=2, target_sum=90.0, max_rows=100)
    np.testing.assert_array_equal(found.loadings, some.loadings)


def test_rows_without_counts_and_rows_of_others_take_no_part():
    counts = section(0).tolil()
    counts[5] = 0
    counts = counts.tocsr()
    rows = np.delete(np.arange(60), [5, 9])
    axes = fit_axes([(counts, np.arange(60)[np.arange(60) != 9])])
    np.testing.assert_array_equal(axes.loadings, fit_axes(together(counts[rows])).loadings)
    scores = axes.scores(counts)
    assert np.isnan(scores[5]).all()
    assert np.isfinite(np.delete(scores, 5, axis=0)).all()
    stored = counts.tocoo()
    stored = csr_matrix((np.append(stored.data, 0), (np.append(stored.row, 5), np.append(stored.col, 0))), counts.shape)
    np.testing.assert_array_equal(scores, axes.scores(stored))


def test_nothing_much_to_fit():
    nothing = csr_matrix((5, 30), dtype=np.float32)
    axes = fit_axes(together(nothing))
    assert axes.target_sum == 1
    assert np.isnan(axes.scores(nothing)).all()
    beside = fit_axes(together(nothing, section(0)))
    np.testing.assert_allclose(beside.loadings, fit_axes(together(section(0))).loadings, atol=1e-6)
    one_gene = fit_axes(together(section(0)[:, :1]))
    assert one_gene.scores(section(0)[:, :1]).shape == (60, 1)
    one_spot = fit_axes(together(section(0)[:1]))
    np.testing.assert_allclose(one_spot.scores(section(0)[:1]), 0, atol=1e-5)
