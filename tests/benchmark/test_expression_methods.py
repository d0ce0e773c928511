"""Each method for expression recovers what is planted in features, or in patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from storm.benchmark._expression_methods import PROBES, STORMS
from storm.benchmark._expression_networks import _turned, bleep, his_to_gene, st_net
from storm.benchmark._probes import Part, Training, training_reliability
from storm.benchmark._tile_views import find_encoder
from storm.metrics import pearson_per_gene
from storm.pretraining.head_sections import HeadSection

SIDE, N_FEATURES, N_GENES = 10, 12, 6
#: Genes that nothing tells of.
NOISE = 2


def part(seed: int, *, px: int = 0) -> Part:
    """A section whose first genes follow its features (or how red its patches are), and whose last are noise."""
    rng = np.random.default_rng(seed)
    places = np.array([(x, y) for y in range(SIDE) for x in range(SIDE)])
    features = rng.normal(size=(len(places), N_FEATURES)).astype(np.float32)
    weights = np.random.default_rng(99).normal(size=(N_FEATURES, N_GENES))
    x = features
    if px:
        red = rng.integers(0, 256, len(places))
        x = rng.integers(0, 30, (len(places), px, px, 3)).astype(np.uint8)
        x[..., 0] = red[:, None, None]
        weights = np.linspace(1, 2, N_GENES)[None]
        features = (red[:, None] - 128) / 74
    y = 5 + features @ weights + rng.normal(0, 0.5, (len(places), N_GENES))
    y[:, -NOISE:] = rng.normal(5, 1, (len(places), NOISE))
    names = [f"g{k}" for k in range(N_GENES)]
    section = HeadSection(
        features=np.asarray(features, dtype=np.float32), counts=csr_matrix(np.ones((len(places), N_GENES))),
        names=names, symbols=names, train=np.ones(len(places), bool), centres=places * 100.0, reach=200.0,
    )  # fmt: skip
    return Part(x, y, places, section, None)


def judged(one: Part) -> Part:
    return Part(one.x, None, one.steps, one.section, None)


def how(**changes) -> Training:
    return Training(**{"seed": 0, "device": torch.device("cpu"), **changes})


@pytest.mark.parametrize("name", [name for name in PROBES if name != "mean"])
def test_recovers_what_features_tell(name):
    train, test = [part(0), part(1), part(2)], part(3)
    before = torch.random.get_rng_state()
    (found,) = PROBES[name].predict(train, [judged(test)], how(epochs=40 if name == "his_to_gene" else None))
    assert (torch.random.get_rng_state() == before).all()
    r = pearson_per_gene(test.y, found)
    assert found.shape == test.y.shape
    assert r[:-NOISE].min() > (0.4 if name in ("knn", "bleep", "his_to_gene", "deep_pt") else 0.7), r
    assert abs(r[-NOISE:]).max() < 0.35
    assert found.mean() == pytest.approx(5, abs=0.5)


def test_the_head_and_the_ranking_know_which_genes_can_be_told():
    train, test = [part(0), part(1)], part(3)
    (found,) = STORMS["storm"].predict(train, [judged(test)], how())
    r = pearson_per_gene(test.y, found)
    rank = training_reliability(train)
    assert r[:-NOISE].min() > 0.8
    assert rank[:-NOISE].min() > 0.8 > 0.35 > abs(rank[-NOISE:]).max()


@pytest.mark.parametrize("name", ["mlp", "bleep", "st_net", "deep_pt", "his_to_gene"])
def test_seeds_decide(name):
    train, test = [part(0)], [judged(part(3))]
    one, same, other = (PROBES[name].predict(train, test, how(seed=seed, epochs=2))[0] for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


def test_what_diverges_is_said():
    train = part(0)
    wild = Part(train.x, train.y * 1e30, train.steps, train.section, None)
    with pytest.raises(ValueError, match=r"the training diverged: its loss is (inf|nan)"):
        PROBES["mlp"].predict([wild], [judged(train)], how())


def test_the_eight_symmetries_are_all_there_are():
    tile = torch.arange(12.0).reshape(1, 1, 2, 6).repeat(1, 1, 3, 1)[..., :6]
    turned = {tuple(_turned(tile, k).flatten().tolist()) for k in range(8)}
    assert len(turned) == 8
    assert all(sorted(one) == sorted(tile.flatten().tolist()) for one in turned)


@pytest.mark.slow
def test_networks_that_read_patches():
    train, test = [part(0, px=32), part(1, px=32)], part(2, px=32)
    tiny = find_encoder("random:timm:test_resnet")
    weights = [parameter.clone() for parameter in tiny.build().parameters()]
    (found,) = bleep(train, [judged(test)], how(epochs=15, backbone=tiny))
    assert pearson_per_gene(test.y, found)[:-NOISE].min() > 0.5
    # the step of ST-Net is for many more spots: what counts is that the mean is the beginning, and that it moves
    (found,) = st_net(train, [judged(test)], how(epochs=2, backbone=tiny))
    mean = np.concatenate([one.y for one in train]).mean(axis=0)
    assert found.mean(axis=0) == pytest.approx(mean, abs=0.1)
    assert found.std(axis=0).min() > 0
    assert pearson_per_gene(test.y, found)[:-NOISE].min() > 0.3
    # the user's network is not the one that was trained
    assert all((a == b).all() for a, b in zip(weights, tiny.build().parameters(), strict=True))
    (found,) = his_to_gene(train, [judged(test)], how(epochs=20))
    assert pearson_per_gene(test.y, found)[:-NOISE].min() > 0.5
