"""Which genes tell patients apart, and to which sets the first of a ranking belong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from storm.prognosis import Explanation, enrich_genes, gene_importance

GENES = ("works", "against", "unused", "context", "constant")


def of_patient(k: int) -> tuple[Explanation, SimpleNamespace]:
    """A patient whose risk is 2 × the first gene's level − the second's, and nothing that the third's level tells.

    Contributions of the fourth are large, and do not go with its level.
    """
    rng = np.random.default_rng(k)
    levels = np.array([*rng.normal(1, [0.5, 0.5, 0.5, 0.5]), 1.0])
    tiles = levels + rng.normal(0, 0.1, (30, 5)) - rng.normal(0, 0.1, 5)
    tiles += levels - tiles.mean(axis=0)
    tiles[:, 4] = 1
    genes = tiles * [2, -1, 0, 0, 0] / 30
    genes[:, 3] = rng.normal(0, 1) / 30
    explanation = Explanation(
        tiles=genes.sum(axis=1), genes=genes.astype(np.float32), he=None, xy_um=np.zeros((30, 2)),
        slide=np.zeros(30, dtype=int), slides=("A",), tile_um=112.0, gene_names=GENES, risk=float(genes.sum()),
        reference=0.0, error=0.0,
    )  # fmt: skip
    return explanation, SimpleNamespace(st=tiles, xy_um=np.zeros((30, 2)))


@pytest.fixture(scope="module")
def patients() -> dict[str, tuple[Explanation, SimpleNamespace]]:
    return {f"p{k}": of_patient(k) for k in range(400)}


@pytest.fixture(scope="module")
def cohort(patients) -> SimpleNamespace:
    return SimpleNamespace(genes=GENES, bag=lambda name: patients[name][1])


def test_shares_of_a_linear_risk(patients, cohort) -> None:
    explained = {name: one for name, (one, _) in patients.items()}
    table = gene_importance(cohort, explained)
    # Variances of the terms: 1, .25, 0, and 1 of the contributions that no level tells.
    assert list(table.index[:2]) == ["works", "against"]
    assert table.loc["works", "share"] == pytest.approx(1 / 2.25, abs=0.06)
    assert table.loc["against", "share"] == pytest.approx(0.25 / 2.25, abs=0.06)
    assert abs(table.loc["context", "share"]) < 0.02 < table.loc["context", "size"]
    assert table.loc["unused", "share"] == 0
    assert (table.loc["works", "direction"], table.loc["against", "direction"]) == ("up", "down")
    assert table.loc["works", "r"] > 0.5 > 0 > table.loc["against", "r"]
    assert np.isnan(table.loc["constant", "r"])
    # Neither a reference that all patients share nor the unit of a gene changes a share.
    moved = {
        name: replace(one, genes=one.genes + np.float32(1), tiles=one.tiles + 5.0) for name, one in explained.items()
    }
    units, places = [7, 1, 1, 1, 1], np.zeros((30, 2))
    scaled = SimpleNamespace(
        genes=GENES, bag=lambda name: SimpleNamespace(st=patients[name][1].st * units, xy_um=places)
    )
    pd.testing.assert_series_equal(gene_importance(scaled, moved)["share"], table["share"], rtol=1e-3, atol=1e-6)


def test_what_has_no_shares(patients, cohort) -> None:
    explained = {name: patients[name][0] for name in ("p0", "p1")}
    with pytest.raises(ValueError, match="2 patients are given"):
        gene_importance(cohort, explained)
    same = dict.fromkeys(("p0", "p1", "p2"), patients["p0"][0])
    with pytest.raises(ValueError, match="risks of 3 patients do not differ"):
        gene_importance(cohort, same)
    without = {**explained, "p2": replace(patients["p2"][0], genes=None)}
    with pytest.raises(ValueError, match="'p2': 0 genes are explained, and they are not the 5 of the cohort"):
        gene_importance(cohort, without)
    with pytest.raises(TypeError, match="explanations"):
        gene_importance(cohort, list(explained.values()))
    other = {**explained, "p2": replace(patients["p2"][0], xy_um=np.ones((30, 2)))}
    with pytest.raises(ValueError, match="'p2' is of 30 tiles, and those of the cohort, 30, are not the same"):
        gene_importance(cohort, other)


@pytest.fixture
def ranked() -> pd.DataFrame:
    names = [f"g{k}" for k in range(100)]
    return pd.DataFrame({"direction": ["up", "down"] * 50}, index=pd.Index(names, name="gene"))


def test_the_first_genes_belong_to_a_set(ranked: pd.DataFrame) -> None:
    sets = {
        "first": [f"g{k}" for k in range(6)] + [f"g{k}" for k in range(86, 100)] + ["not ranked"],
        "even": [f"g{k}" for k in range(0, 100, 2)],
        "small": ["g1", "g2"],
    }
    found = enrich_genes(ranked, sets, n_genes=10)
    assert list(found.index) == ["first", "even"]
    row = found.loc["first"]
    assert (row["n_genes"], row["n_overlap"], row["expected"]) == (20, 6, 2.0)
    assert row["pvals"] == pytest.approx(0.0039331, abs=1e-7)
    assert row["pvals"] == pytest.approx(hypergeom.sf(5, 100, 20, 10))
    assert row["genes"].split(",") == [f"g{k}" for k in range(6)]
    assert row["pvals_adj"] == pytest.approx(2 * row["pvals"])
    up = enrich_genes(ranked, sets, n_genes=10, direction="up")
    assert up.attrs["selected"] == [f"g{k}" for k in range(0, 20, 2)]
    assert up.loc["even", "n_overlap"] == 10


def test_rankings_that_select_nothing(ranked: pd.DataFrame) -> None:
    sets = {"s": [f"g{k}" for k in range(20)]}
    with pytest.raises(ValueError, match="100 of 100 ranked genes are selected"):
        enrich_genes(ranked, sets, n_genes=100)
    with pytest.raises(KeyError, match="no column 'direction'"):
        enrich_genes(ranked.drop(columns="direction"), sets, n_genes=5, direction="up")
    with pytest.raises(ValueError, match="none of 1 sets has min_genes=30 of the 100 ranked genes, of which 20"):
        enrich_genes(ranked, sets, n_genes=5, min_genes=30)
    with pytest.raises(TypeError, match="ranked is a list"):
        enrich_genes(list(ranked.index), sets)
    with pytest.raises(FileNotFoundError, match="no GMT file"):
        enrich_genes(ranked, "no.gmt")
