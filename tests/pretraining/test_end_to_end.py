"""Runs that train the tile encoder together with the network."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from planted_tiles import small_net, tile_config, tile_corpus, tile_shard
from storm.pretraining.checkpoint import find_checkpoint
from storm.pretraining.prepare import prepare
from storm.pretraining.record import Record
from storm.pretraining.start import tile_encoder_of
from storm.pretraining.train import train

HOW = {"epochs": 2, "checkpoint_steps": 3, "dropout": 0.1}

#: What a log says of the machine.
TIMES = ("windows_per_s", "forward_windows_per_s", "share_of_forward")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_loss_falls_and_the_encoder_is_part_of_the_model(tmp_path):
    import storm

    config = tile_config(
        tmp_path, epochs=4, warmup_epochs=0.5, lr=2e-3, validation_sections=("other",), validation_share=0.0,
        checkpoint_steps=1000,
    )  # fmt: skip
    other = tile_shard(Path(config.data.shards), config, name="other", seed=3, n=12)
    shards = [*tile_corpus(config, n=12), other]
    prepare(config, shards)
    folder = train(config)
    log = table(tmp_path / "run" / "log.csv")
    baselines = json.loads((tmp_path / "run" / "baselines.json").read_text())
    for name in ("he", "st"):
        assert float(log[-1][name]) < 0.7 * float(log[0][name])
        assert float(log[-1][f"validation_{name}"]) < 0.8 * baselines[f"{name}_mean"]
        assert float(log[-1][f"validation_{name}"]) < 0.9 * baselines[f"{name}_nearest"]
    assert float(log[-1]["share_of_forward"]) > 0

    model = storm.load_model(folder)
    assert model.trained
    assert model.tile_encoder.modified
    assert model.tile_px == 32
    assert "tile encoder 'timm:test_vit' included" in model.card["summary"]
    assert "TILE_ENCODER_LICENCE.txt" in {path.name for path in folder.iterdir()}
    before, after = tile_encoder_of(config).build(), model.tile_encoder.build()
    assert all(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    # It has not collapsed: tiles still differ from each other.
    x = torch.from_numpy(np.array(other.array("patches"))).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert after(x).std(dim=0).mean() > 0.2 * before(x).std(dim=0).mean()
    # And the statistics are those of the encoder as it has become.
    start = storm.load_model(tmp_path / "run" / "start")
    raw = []
    for shard in shards[:2]:
        pixels = torch.from_numpy(np.array(shard.array("patches"))).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.tile_encoder.mean, model.tile_encoder.std))
        with torch.no_grad():
            raw.append(after((pixels - mean) / std).numpy())
    raw = np.concatenate(raw)
    closer = np.abs(raw.mean(axis=0) - model.statistic("he_mean")).mean()
    assert closer < 0.3 * np.abs(raw.mean(axis=0) - start.statistic("he_mean")).mean()
    np.testing.assert_allclose(raw.std(axis=0), model.statistic("he_std"), rtol=0.3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was never interrupted."""
    config = tile_config(tmp_path_factory.mktemp("finished"), **HOW)
    prepare(config, tile_corpus(config))
    return config, train(config)


class Killed(BaseException):
    """What nothing catches."""


def test_an_interrupted_run_goes_on_to_the_bit(finished, tmp_path, monkeypatch):
    import storm

    config, whole = finished
    per_epoch = len(table(Path(config.run.out) / "steps.csv")) // 2
    # it died in the second epoch, whose statistics are not those of the start, in the middle of it
    assert per_epoch < 6 < 2 * per_epoch
    mine = tile_config(tmp_path, **HOW)
    prepare(mine, tile_corpus(mine))
    step = Record.step

    def then_die(self, number, *rest):
        step(self, number, *rest)
        if number == 7:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Record, "step", then_die)
        with pytest.raises(Killed):
            train(mine)
    assert find_checkpoint(tmp_path / "run" / "checkpoints").name == "step-000000006"
    model, there = storm.load_model(train(mine)), storm.load_model(whole)
    for name, without in (("steps.csv", ()), ("log.csv", TIMES)):
        rows, expected = (
            [{key: value for key, value in row.items() if key not in without} for row in table(folder / name)]
            for folder in (tmp_path / "run", Path(config.run.out))
        )
        assert rows == expected
    assert model.sha256 == there.sha256
    assert model.tile_encoder.sha256 == there.tile_encoder.sha256


def test_other_weights_of_the_encoder_are_refused(finished, tmp_path, monkeypatch):
    config, _ = finished
    from storm.encoders import with_weights

    info = tile_encoder_of(config)
    with torch.no_grad():
        info.build().norm.bias.add_(1.0)
    other = with_weights(info, info.build())
    monkeypatch.setattr("storm.pretraining.train.tile_encoder_of", lambda _: other)
    with pytest.raises(ValueError, match="not those that the run was prepared with"):
        train(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"standardise": "training", "flips": False, "crop_area": 1.0},
        {"precision": "bf16", "tile_chunk": 7, "layer_decay_over": "all", "he_only": 0.3},
        {"window": 1},
    ],
    ids=str,
)
def test_switches(changes, tmp_path):
    """On a ConvNet of one's own with a batch norm, which keeps its statistics."""
    import storm

    small_net()
    config = tile_config(
        tmp_path, epochs=1, warmup_epochs=0, tile_encoder="small-net", **({"validation_share": 0.0} | changes)
    )
    prepare(config, tile_corpus(config, n=7))
    model = storm.load_model(train(config))
    before, after = tile_encoder_of(config).build(), model.tile_encoder.build()
    moved = {name for name, p in after.named_parameters() if not torch.equal(p, dict(before.named_parameters())[name])}
    # A shift before ReLU may reach nothing; everything else is trained.
    assert moved >= {"scale", "stem.weight", "stages.0.0.weight", "stages.0.1.weight", "stages.1.0.weight"}
    assert all(torch.equal(a, b) for a, b in zip(after.buffers(), before.buffers(), strict=True))
    start = storm.load_model(Path(config.run.out) / "start")
    same = np.array_equal(model.statistic("he_mean"), start.statistic("he_mean"))
    assert same == ("standardise" in changes)
    log = table(Path(config.run.out) / "log.csv")[-1]
    assert np.isfinite(float(log["st"]))
    assert (log["he"] == "") == ("window" in changes)
