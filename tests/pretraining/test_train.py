"""The switches of a run, and what depends on its seed."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from planted_shards import planted_config, planted_corpus, planted_shard
from storm.data.windows import make_windows
from storm.pretraining.prepare import prepare
from storm.pretraining.record import Record
from storm.pretraining.shards import write_shard
from storm.pretraining.train import train


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_seed_is_what_a_run_depends_on(tmp_path):
    curves = []
    for at, seed in enumerate((0, 0, 1)):
        config = planted_config(tmp_path / str(at), seed=seed, dropout=0.1)
        prepare(config, planted_corpus(tmp_path / str(at) / "shards", n=10))
        torch.rand(at)  # whatever was drawn before
        before = torch.get_rng_state()
        train(config)
        assert torch.equal(torch.get_rng_state(), before)
        curves.append(table(Path(config.run.out) / "steps.csv"))
    assert curves[0] == curves[1]
    assert curves[2] != curves[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 1, "section_batch": 64},
        {"expression": "hvg", "hvg_genes": 12},
        {"st_likelihood": "nb", "genes_per_step": 16},
        {"standardise": "training", "genes": 25, "he_only": 0.2},
        {"layer_decay_over": "all", "dropout": 0.1, "precision": "bf16", "validation_share": 0.0},
    ],
    ids=str,
)
def test_switches(changes, tmp_path):
    import storm

    config = planted_config(tmp_path, epochs=1, warmup_epochs=0, **changes)
    shards = [
        planted_shard(tmp_path / "shards", name="a", n=10),
        planted_shard(tmp_path / "shards", name="b", n=10, he=False, genes=slice(5, None)),
    ]
    if config.data.window == 1:
        for at, shard in enumerate(shards):
            rows = np.arange(len(shard))
            he = np.array(shard.array("he")) if shard.has("he") else None
            shards[at] = write_shard(
                tmp_path / "ones" / shard.name, name=shard.name, centres=np.array(shard.centres),
                windows=make_windows(np.array(shard.centres), size=1), counts=shard.counts(rows), genes=shard.genes,
                he=he,
            )  # fmt: skip
        config = config.changed(shards=str(tmp_path / "ones"))
    start, _ = prepare(config, shards)
    start = {name: value.clone() for name, value in start.network.state_dict().items()}
    model = storm.load_model(train(config))
    assert any(not torch.equal(value, start[name]) for name, value in model.network.state_dict().items())
    log = table(Path(config.run.out) / "log.csv")[-1]
    assert np.isfinite(float(log["st"]))
    if config.data.window == 1:
        assert log["he"] == ""
    if "hvg_genes" in changes:
        assert (model.expression.kind, model.config.st_dim) == ("genes", 12)
    if "genes" in changes:
        assert len(model.vocabulary) == 25


def test_no_pretraining_gives_the_untrained_model(tmp_path):
    import storm

    config = planted_config(tmp_path, epochs=0)
    start, _ = prepare(config, [planted_shard(tmp_path / "shards", name="a", n=10)])
    model = storm.load_model(train(config))
    assert not model.trained
    assert all(torch.equal(v, start.network.state_dict()[name]) for name, v in model.network.state_dict().items())


def test_the_log_goes_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    """Against a writer that remembers; the real one is no dependency."""
    said = []

    class Writer:
        def __init__(self, folder, *, purge_step):
            said.append((Path(folder).name, purge_step))

        def add_scalar(self, name, value, at):
            said.append((name, value, at))

        def close(self):
            said.append("closed")

    monkeypatch.setattr("storm.pretraining.record.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    record = Record(tmp_path, step=3, epoch=1, on=True)
    record.step(3, 1, 0.5, {"he": 0.25})
    record.close()
    assert said == [("tensorboard", 3), ("steps/lr", 0.5, 3), ("steps/he", 0.25, 3), "closed"]
    assert table(tmp_path / "steps.csv") == [{"step": "3", "epoch": "1", "lr": "0.5", "he": "0.25", "st": ""}]
    nobody = Record(tmp_path / "nobody", step=0, epoch=0, on=False)
    nobody.step(0, 0, 0.5, {})
    assert not (tmp_path / "nobody").exists()


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_a_run_that_diverges_ends_with_an_error_and_leaves_no_checkpoint(tmp_path, monkeypatch, what):
    config = planted_config(tmp_path, checkpoint_steps=1)
    prepare(config, planted_corpus(tmp_path / "shards", n=8))

    def step(fabric, objective, optimiser, batches, *, clip):
        if what == "weights":
            with torch.no_grad():
                next(objective.parameters()).fill_(torch.nan)
        return [float("nan") if what == "loss" else 1.0, 1.0], [1.0, 1.0]

    monkeypatch.setattr("storm.pretraining.train._step", step)
    place = "loss of H&E is nan at step 0" if what == "loss" else "weights that are not finite after step 1"
    with pytest.raises(ValueError, match=rf"the training diverged: .*{place}.*lr=0\.003"):
        train(config)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    assert not (tmp_path / "run" / "model").exists()
