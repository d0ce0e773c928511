"""Signed contributions to a risk, zones, and what differs between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_ind

import storm
from storm.prognosis import Cohort, OutcomeFit, compare_tiles, explain, fit, rank_genes, zone_genes, zones


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    effects = {"harmful": 1.5, "protective": -1.5, "programme": 0.0}
    folder = tmp_path_factory.mktemp("cohort") / "c"
    return storm.datasets.toy_cohort(folder, n_patients=40, seed=1, effects=effects, n_tiles=(60, 90))


@pytest.fixture(scope="module")
def model(cohort: Cohort):
    config = OutcomeFit(epochs=10, tiles_per_bag=48, width=16, patients_per_batch=16, lr=5e-3)
    return fit(cohort, "DSS", network="mean", baselines=False, config=config, device="cpu")


def types(cohort: Cohort, explanation) -> np.ndarray:
    return np.concatenate([cohort.features(slide)["type"][...] for slide in explanation.slides])


def test_harmful_tiles_raise_the_risk_and_protective_ones_lower_it(cohort: Cohort, model) -> None:
    from sklearn.metrics import roc_auc_score

    signed, size = [], []
    for patient in cohort.patients.index[:8]:
        found = explain(model, cohort, patient, device="cpu", steps=16)
        kind = types(cohort, found)
        planted = (kind == 0) | (kind == 1)
        signed.append(roc_auc_score(kind[planted] == 0, found.tiles[planted]))
        size.append(roc_auc_score(kind[planted] == 0, np.abs(found.tiles[planted])))
    assert np.mean(signed) > 0.85
    assert np.mean(size) < np.mean(signed) - 0.15  # without its sign a contribution does not tell them apart


@pytest.mark.parametrize("reference", ["mean", "zero"])
@pytest.mark.parametrize("network", ["perceiver", "abmil", "mean"])
def test_contributions_add_up(cohort: Cohort, model, network: str, reference: str) -> None:
    from storm.model.outcome import Outcome

    torch.manual_seed(0)
    other = Outcome(replace(model.network.config, network=network)).eval().requires_grad_(False)
    for name, layer in other.tokens.items():
        layer[0].load_state_dict(model.network.standard(name).state_dict())
    found = explain(replace(model, network=other), cohort, "P0001", reference=reference, device="cpu", steps=32)
    assert found.error < 1e-3
    assert found.tiles.sum() == pytest.approx(found.risk - found.reference, rel=1e-3, abs=1e-6)
    np.testing.assert_allclose(found.he + found.genes.sum(axis=1), found.tiles, rtol=1e-4, atol=1e-6)


def test_a_bag_too_large_for_the_device(cohort: Cohort, model, monkeypatch, caplog) -> None:
    """It is explained on the CPU, with the same numbers, and that is said."""
    from storm.model.outcome import Outcome

    expected = explain(model, cohort, "P0003", device="cpu", steps=4)
    forward, calls = Outcome.forward, []

    def full(self, bags, mask):
        calls.append(mask.shape)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, bags, mask)

    monkeypatch.setattr(Outcome, "forward", full)
    with caplog.at_level("WARNING", logger="storm"):
        found = explain(model, cohort, "P0003", device="cpu", steps=4)
    np.testing.assert_array_equal(found.tiles, expected.tiles)
    assert f"P0003 has {len(found.tiles)} tiles, too many for cpu: it is explained on the CPU" in caplog.text


def test_as_a_table(cohort: Cohort, model) -> None:
    found = explain(model, cohort, "P0002", device="cpu", steps=8)
    table = found.to_anndata()
    assert table.shape == (len(found.tiles), len(cohort.genes))
    np.testing.assert_array_equal(table.obs["storm_risk"], found.tiles)
    np.testing.assert_array_equal(table.obsm["spatial"], found.xy_um)
    assert list(table.obs["slide"].cat.categories) == list(found.slides)
    assert list(table.var_names) == list(cohort.genes)


def test_zones_of_a_planted_mixture() -> None:
    values = np.concatenate([0.5 * np.sin(np.arange(60)) - 1, 0.7 * np.cos(np.arange(40)) + 2])
    found = zones(values)
    assert found.means == pytest.approx((-0.983839, 2.026518), abs=1e-5)
    assert found.sds == pytest.approx((0.352360, 0.495730), abs=1e-5)
    assert found.weights == pytest.approx((0.6, 0.4), abs=1e-5)
    assert found.high.sum() == 40
    small = zones(values / 1e5)  # contributions fall with the number of tiles
    np.testing.assert_array_equal(small.high, found.high)
    assert small.means[1] == pytest.approx(found.means[1] / 1e5, rel=1e-6)


def test_no_zones() -> None:
    with pytest.raises(ValueError, match="one Gaussian describes the contributions better"):
        zones(np.random.default_rng(0).normal(size=300))
    with pytest.raises(ValueError, match="20 tiles or more"):
        zones(np.arange(10.0))
    with pytest.raises(ValueError, match="1 of them missing"):
        zones(np.r_[np.nan, np.arange(30.0)])


def test_genes_of_zones(cohort: Cohort, model, caplog) -> None:
    """Genes of the harmful type rank among the first, those of no type do not."""
    names = list(cohort.patients.index[:6])
    explained = {name: explain(model, cohort, name, device="cpu", steps=8) for name in names}
    # zones as planted, so that the test does not depend on the network
    planted = {
        name: replace(one, tiles=np.where(types(cohort, one) == 0, 1.0, -1.0) + 0.1 * np.sin(np.arange(len(one.tiles))))
        for name, one in explained.items()
    }
    one = planted[names[0]]
    flat = replace(one, tiles=np.random.default_rng(0).normal(size=len(one.tiles)))
    with caplog.at_level("WARNING", logger="storm"):
        zone_genes(cohort, {**planted, names[0]: flat})
    slides = [slide for name in names for slide in planted[name].slides]
    assert f"{len(one.slides)} of {len(slides)} slides have no zones and are left out: {names[0]}-A" in caplog.text
    changes = zone_genes(cohort, planted)
    assert list(changes.columns) == list(cohort.genes)
    ranked = rank_genes(changes)
    assert (ranked["rho"].diff().dropna() >= 0).all()
    values = np.concatenate([cohort.bag(name).st for name in names])
    kinds = np.concatenate([types(cohort, explained[name]) for name in names])
    linear = np.expm1(values)
    truth = pd.Series(
        np.log2(linear[kinds == 0].mean(axis=0) + 1) - np.log2(linear[kinds != 0].mean(axis=0) + 1), index=cohort.genes
    )
    first = ranked.index[0]
    assert first in truth.abs().sort_values().index[-5:]
    assert (ranked.loc[first, "direction"] == "up") == (truth[first] > 0)
    assert ranked.loc[first, "padj"] < 0.05 < ranked["padj"].iloc[-1]
    flat = {
        name: replace(one, tiles=np.random.default_rng(0).normal(size=len(one.tiles))) for name, one in planted.items()
    }
    with pytest.raises(ValueError, match="slides has zones; the first"):
        zone_genes(cohort, flat)


def test_patients_are_compared_not_tiles(cohort: Cohort, model) -> None:
    rng = np.random.default_rng(0)
    explained = {name: explain(model, cohort, name, device="cpu", steps=2 + 6) for name in cohort.patients.index[:5]}
    cells = {
        name: pd.DataFrame({"immune": rng.random(len(one.tiles)) + (one.tiles > 0), "fat": rng.random(len(one.tiles))})
        for name, one in explained.items()
    }
    found = compare_tiles(explained, cells, share=0.1)
    assert (found["n_patients"] == 5).all()
    assert found.loc["immune", "pvals_adj"] < 0.01 < found.loc["fat", "pvals"]
    ends = []
    for name, one in explained.items():
        order, number = np.argsort(one.tiles, kind="stable"), round(0.1 * len(one.tiles))
        ends.append([cells[name]["fat"].iloc[order[-number:]].mean(), cells[name]["fat"].iloc[order[:number]].mean()])
    expected = ttest_ind(*np.transpose(ends), equal_var=False)
    assert found.loc["fat", "pvals"] == pytest.approx(expected.pvalue)
    with pytest.raises(KeyError, match="there is no composition"):
        compare_tiles(explained, {})
    with pytest.raises(ValueError, match="three or more"):
        compare_tiles(dict(list(explained.items())[:2]), cells)
    text = {name: pd.DataFrame({"kind": ["a"] * len(one.tiles)}) for name, one in explained.items()}
    with pytest.raises(ValueError, match=r"columns that are no numbers: \['kind'\]"):
        compare_tiles(explained, text)
    with pytest.raises(TypeError, match="composition is a list"):
        compare_tiles(explained, list(text.values()))
    with pytest.raises(TypeError, match="explanations is a list"):
        compare_tiles(list(explained.values()), cells)


def test_what_is_no_explanation(cohort: Cohort, model) -> None:
    with pytest.raises(TypeError, match=r"model is a str; give what storm.prognosis.fit"):
        explain("model", cohort, "P0001")
    with pytest.raises(TypeError, match="cohort is a str"):
        explain(model, "cohort", "P0001")
    with pytest.raises(TypeError, match=r"explanations\['P0001'\] is a int"):
        zone_genes(cohort, {"P0001": 1})
    with pytest.raises(TypeError, match="fold_changes is a dict"):
        rank_genes({})
    one = explain(model, cohort, "P0001", device="cpu", steps=8)
    with pytest.raises(ValueError, match=r"the explanation of 'P0002' is of .* tiles, and those of the cohort"):
        zone_genes(cohort, {"P0002": one})
