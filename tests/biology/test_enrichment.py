"""Gene sets, against values computed by hand, scipy and gseapy."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact

from storm.biology.enrichment import over_representation, preranked_enrichment, read_gmt, sets_with_genes

TESTED = [f"g{i}" for i in range(20)]
SELECTED = TESTED[:5]
SETS = {
    name: [f"g{i}" for i in numbers]
    for name, numbers in {
        "A": [0, 1, 2, 3, 10, 11],
        "B": [4, 12, 13, 14, 15],
        "C": [16, 17, 18, 19],
        "D": [0, 5, 98, 99],
    }.items()
}
SCORES = {f"g{i}": value for i, value in enumerate([5, 4, 3, 2, 1, -1, -2, -3, -4, -5])}


def test_golden_values_of_over_representation():
    frame = over_representation(SELECTED, TESTED, SETS)
    np.testing.assert_allclose(frame["pvals"], [9 / 646, 4167 / 5168, 1, 17 / 38], atol=1e-12)
    np.testing.assert_allclose(frame["pvals_adj"], [0.0557275542, 1, 1, 0.8947368421], atol=1e-10)
    assert frame["n_genes"].tolist() == [6, 5, 4, 2]
    assert frame["n_overlap"].tolist() == [4, 1, 0, 1]
    assert frame["genes"].tolist() == ["g0,g1,g2,g3", "g4", "", "g0"]
    odds, p = fisher_exact([[4, 2], [1, 13]], alternative="greater")
    assert frame["odds_ratio"][0] == pytest.approx(odds)
    assert frame["pvals"][0] == pytest.approx(p)
    assert frame["expected"][0] == pytest.approx(1.5)


def test_duplicates_and_untested_genes_change_nothing():
    twice = {name: [*genes, *genes, "not measured"] for name, genes in SETS.items()}
    plain = over_representation(SELECTED, TESTED, SETS)
    pd.testing.assert_frame_equal(over_representation([*SELECTED, "not measured"], [*TESTED, "g0"], twice), plain)
    assert over_representation([], TESTED, SETS)["pvals"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("numbers", "weight", "es", "edge"),
    [
        ([1, 2, 9], 1, 0.4404761905, "g1,g2"),
        ([1, 2, 9], 0, 0.5238095238, "g1,g2"),
        ([0, 3, 8], 1, 0.4545454545, "g0"),
        ([0, 3, 8], 0, 0.3809523810, "g0,g3"),
        ([0, 2, 8], 1, 0.5238095238, "g0,g2"),
    ],
)
def test_golden_scores(numbers, weight, es, edge):
    frame = preranked_enrichment(SCORES, {"S": [f"g{i}" for i in numbers]}, weight=weight)
    assert frame["es"][0] == pytest.approx(es, abs=1e-10)
    assert frame["genes"][0] == edge


def test_golden_p_value_over_all_sets():
    frame = preranked_enrichment(SCORES, {"S": ["g0", "g2", "g8"]})
    assert frame["pvals"][0] == pytest.approx(34 / 63)
    assert frame["nes"][0] == pytest.approx(0.9264356548, abs=1e-10)


def test_mirrored_ranking_mirrors_the_scores():
    sets = {"S": ["g0", "g2", "g3"], "T": ["g7", "g8", "g4"]}
    one = preranked_enrichment(SCORES, sets)
    other = preranked_enrichment({gene: -score for gene, score in SCORES.items()}, sets)
    np.testing.assert_allclose(other["es"], -one["es"])
    np.testing.assert_allclose(other["pvals"], one["pvals"], atol=0.03)  # equal deviations
    assert one["genes"].tolist() == other["genes"].map(lambda genes: ",".join(genes.split(",")[::-1])).tolist()


def test_agrees_with_gseapy():
    import gseapy

    rng = np.random.default_rng(0)
    names = [f"g{i}" for i in range(400)]
    ranking = pd.Series(rng.normal(size=400), index=names).sort_values(ascending=False)
    sets = {f"S{i}": list(rng.choice(names[: 100 + 30 * i], 20, replace=False)) for i in range(8)}
    ours = preranked_enrichment(ranking, sets, permutations=4000).set_index("set")
    theirs = (
        gseapy.prerank(ranking, sets, min_size=1, permutation_num=4000, seed=1, no_plot=True, outdir=None, threads=1)
        .res2d.set_index("Term")
        .loc[ours.index]
    )
    np.testing.assert_allclose(ours["es"], theirs["ES"].astype(float), atol=1e-9)
    np.testing.assert_allclose(ours["nes"], theirs["NES"].astype(float), rtol=0.06)
    np.testing.assert_allclose(ours["pvals"], theirs["NOM p-val"].astype(float), atol=0.05)


def test_seed_decides_and_p_is_never_zero():
    ranking = {f"g{i}": 200.0 - i for i in range(200)}
    sets = {"top": [f"g{i}" for i in range(10)]}
    one, two, three = (preranked_enrichment(ranking, sets, seed=seed, permutations=100) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert one["nes"][0] != three["nes"][0]
    assert 0 < one["pvals"][0] < 0.05


def test_gmt(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_bytes("\ufeffA\tabout A\tg1\tg2\tg1\t\r\n\r\nB\t\tg3\r\n".encode())
    assert read_gmt(path) == {"A": ["g1", "g2"], "B": ["g3"]}
    packed = tmp_path / "sets.gmt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_gmt(packed) == read_gmt(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"A\tx\tg1\nA\ty\tg2\n", "line 2: the set 'A' is there already"),
        (b"A,x,g1\n", "line 1: 'A,x,g1' is not a gene set"),
        (b"\n\n", "holds no gene set"),
        (b"A\tx\t\xff\xfe\n", "not a GMT file"),
        (gzip.compress(b"A\tx\tg1\n" * 100, mtime=0)[:-20], "not a GMT file"),
        (gzip.compress(b"A\tx\tg1\n", mtime=0)[:10] + b"\xff" * 20, "not a GMT file"),
    ],
)
def test_bad_gmt(tmp_path, content, text):
    path = tmp_path / "sets.gmt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        read_gmt(path)


def test_sets_that_are_left_out():
    kept, left_out = sets_with_genes(SETS | {"none": ["x", "y"]}, TESTED, min_genes=4, max_genes=5)
    assert kept == {"B": SETS["B"], "C": SETS["C"]}
    assert left_out == {
        "A": "more than 5 tested genes",
        "D": "fewer than 4 tested genes",
        "none": "fewer than 4 tested genes",
    }
