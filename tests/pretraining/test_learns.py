"""Masked reconstruction on sections of several platforms against the predictors that learn nothing."""

from __future__ import annotations

import csv
import json

from planted_shards import planted_config, planted_corpus, planted_shard
from storm.pretraining.prepare import prepare
from storm.pretraining.train import train


def test_it_learns_more_than_the_mean_and_the_nearest_spot_say(tmp_path):
    import storm

    config = planted_config(tmp_path, epochs=12, warmup_epochs=1, validation_sections=("other",), checkpoint_steps=1000)
    shards = [
        *planted_corpus(tmp_path / "shards", n=13),
        planted_shard(tmp_path / "shards", name="other", seed=3, n=12),
    ]
    prepare(config, shards)
    model = storm.load_model(train(config))
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    assert len(log) == 12
    baselines = json.loads((tmp_path / "run" / "baselines.json").read_text())
    for name in ("he", "st"):
        assert float(log[-1][name]) < 0.6 * float(log[0][name])
        held_out = float(log[-1][f"validation_{name}"])
        assert held_out < 0.75 * baselines[f"{name}_mean"]
        assert held_out < 0.85 * baselines[f"{name}_nearest"]
    assert float(log[-1]["windows_per_s"]) > 0
    assert 0 < float(log[-1]["share_of_forward"]) < 2
    assert model.trained
    assert model.network.decoders.keys() == {"he", "st"}
    assert model.card["sections"] == ["visium", "bins", "cells", "other"]
