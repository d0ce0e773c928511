"""Corpora whose sections do not all have both modalities, Novae as the expression encoder, the log in TensorBoard."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import storm
from planted_shards import GENES, planted_config, planted_shard
from planted_tiles import tile_config, tile_shard
from storm.expression import NovaeEncoder
from storm.expression.novae_models import random_novae
from storm.pretraining.prepare import prepare
from storm.pretraining.record import Record
from storm.pretraining.train import train

# anndata tells those who write that its next version will write otherwise
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


def log_of(config) -> list[dict[str, str]]:
    with (Path(config.run.out) / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("train_tiles", [False, True])
def test_a_corpus_of_nothing_but_images(train_tiles, tmp_path, caplog):
    how = {"epochs": 3, "warmup_epochs": 0.5, "lr": 2e-3, "validation_share": 0.0, "validation_sections": ("other",)}
    config = tile_config(tmp_path, train_tiles=train_tiles, **how)
    names = ("a", "b", "other")
    shards = [
        tile_shard(Path(config.data.shards), config, name=name, counts=False, seed=i) for i, name in enumerate(names)
    ]
    prepare(config, shards)
    assert "learns from H&E alone" in caplog.text
    model = storm.load_model(train(config))
    log = log_of(config)
    assert float(log[-1]["he"]) < 0.8 * float(log[0]["he"])
    assert float(log[-1]["validation_he"]) < float(log[0]["validation_he"])
    assert {row["st"] for row in log} == {row["validation_st"] for row in log} == {""}
    assert json.loads((tmp_path / "run" / "baselines.json").read_text()).keys() == {"he_mean", "he_nearest"}
    assert list(model.network.decoders) == ["he"]
    assert len(model.vocabulary) == 0
    assert model.settings["modality_weights"] == {"he": 0.5, "st": 0.0}
    # A model that has seen no expression refuses it, and embeds H&E.
    sdata = storm.datasets.toy("visium", n=60, seed=0)
    for readout in ("window", "reconstruction"):
        storm.tl.embed(sdata, model=model, modality="he", field_um=55.0, readout=readout)
        assert np.isfinite(sdata.tables["table"].obsm["X_storm"]).all()
    with pytest.raises(ValueError, match="among the model's 0"):
        storm.tl.embed(sdata, model=model, field_um=55.0)


def test_sections_with_both_with_one_and_with_the_other(tmp_path):
    config = tile_config(tmp_path, epochs=3, warmup_epochs=0.5, lr=2e-3)
    folder = Path(config.data.shards)
    shards = [
        tile_shard(folder, config, name="both", seed=0),
        tile_shard(folder, config, name="he", counts=False, kind="hex", seed=1),
        tile_shard(folder, config, name="st", image=False, seed=2),
    ]
    _, sections = prepare(config, shards)
    assert [list(section.tokens) for section in sections] == [["st", "he"], ["he"], ["st"]]
    model = storm.load_model(train(config))
    log = log_of(config)
    for name in ("he", "st"):
        assert float(log[-1][name]) < 0.85 * float(log[0][name])
        assert np.isfinite(float(log[-1][f"validation_{name}"]))
    assert sorted(model.vocabulary.symbols) == sorted(GENES)
    assert model.settings["modality_weights"] == {"he": 0.5, "st": 1.0}


def test_what_no_section_has_weighs_nothing(tmp_path):
    config = planted_config(tmp_path, epochs=1, warmup_epochs=0)
    prepare(config, [planted_shard(tmp_path / "shards", name="a", he=False, n=10)])
    assert storm.load_model(train(config)).settings["modality_weights"] == {"he": 0.0, "st": 1.0}


def test_stored_sections_without_a_table_or_without_an_image(tmp_path):
    from storm.cli import main

    for name, seed in (("both", 0), ("he", 1), ("st", 2)):
        sdata = storm.datasets.toy("visium", n=60, seed=seed)
        if name == "he":
            del sdata.tables["table"]
        if name == "st":
            del sdata.images["he"]
        sdata.write(tmp_path / f"{name}.zarr")
    (tmp_path / "run.toml").write_text(
        'sections = ["."]\ntile_encoder = "stain-texture"\nsize = "tiny"\nexpression_dim = 8\nepochs = 1\n'
        'warmup_epochs = 0\nbatch_size = 32\nsection_batch = 32\naccelerator = "cpu"\ndevices = 1\n'
    )
    assert main(["pretrain", str(tmp_path / "run.toml"), "--quiet"]) == 0
    tokens = tmp_path / "pretrained" / "tokens"
    there = {name: {kind for kind in ("he", "st") if (tokens / name / f"{kind}.npy").exists()} for name in
             ("both", "he", "st")}  # fmt: skip
    assert there == {"both": {"he", "st"}, "he": {"he"}, "st": {"st"}}
    sdata = storm.datasets.toy("visium", n=60, seed=3)
    storm.tl.embed(sdata, model=tmp_path / "pretrained" / "model")
    assert np.isfinite(sdata.tables["table"].obsm["X_storm"]).all()
    # And nothing but sections without a table.
    for name in ("both", "st"):
        shutil.rmtree(tmp_path / f"{name}.zarr")
    (tmp_path / "run.toml").write_text((tmp_path / "run.toml").read_text() + 'out = "images"\n')
    assert main(["pretrain", str(tmp_path / "run.toml"), "--quiet"]) == 0
    assert list(storm.load_model(tmp_path / "images" / "model").network.decoders) == ["he"]


def test_novae_as_the_expression_encoder(tmp_path):
    """As the paper has it: frozen, every spot by itself."""
    genes = [f"G{i}" for i in range(5, 40)]
    shape = {"embedding_size": 16, "hidden_size": 32, "heads": 4, "output_size": 8, "num_layers": 2}
    novae = NovaeEncoder(random_novae(genes, **shape), name="novae, random", variable=False)
    base = storm.build_model("storm-tiny", genes=genes, expression=novae)
    base.save(tmp_path / "novae")
    config = planted_config(
        tmp_path, expression="model", expression_model=str(tmp_path / "novae"), epochs=4, warmup_epochs=0.5,
        validation_share=0.0,
    )  # fmt: skip
    shards = [
        planted_shard(tmp_path / "shards", name="a", n=10),
        planted_shard(tmp_path / "shards", name="b", n=10, he=False, genes=slice(3, 33), seed=1),
    ]
    _, sections = prepare(config, shards)
    counts = shards[0].counts(np.arange(100))
    raw = novae.encode(counts, shards[0].genes)
    tokens = np.array(sections[0].tokens["st"])
    known = np.isfinite(raw).all(axis=1)
    assert (known == np.isfinite(tokens).all(axis=1)).all()
    for column in range(8):
        assert np.corrcoef(raw[known, column], tokens[known, column])[0, 1] > 0.9999
    model = storm.load_model(train(config))
    log = log_of(config)
    assert float(log[-1]["st"]) < 0.9 * float(log[0]["st"])
    assert (model.expression.kind, model.expression.context, model.expression.name) == (
        "novae",
        "spot",
        "novae, random",
    )
    np.testing.assert_array_equal(model.expression.encode(counts, shards[0].genes), raw)
    assert len(model.vocabulary) == len(GENES)  # the decoder writes what Novae cannot read too
    assert len(model.expression.vocabulary) == 35

    full = NovaeEncoder(random_novae(genes, **shape), context="full", variable=False)
    replace(base, expression=full).save(tmp_path / "full")
    other = config.changed(expression_model=str(tmp_path / "full"), out=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="reads neighbours, which may be masked; use context='spot'"):
        prepare(other, shards)


def test_the_log_in_tensorboard(tmp_path):
    """With the package itself, where it is installed."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((0, 4), (2, 6)):  # killed after step 3, gone on from step 2
        record = Record(tmp_path, step=first, epoch=first // 3, on=True)
        for step in range(first, last):
            record.step(step, step // 3, 0.5, {"he": 10.0 * first + step})
        record.epoch(1, {"st": 0.25}, {"lr": 0.5})
        record.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"steps/lr", "steps/he", "log/st", "log/lr"}
    assert [(e.step, e.value) for e in board.Scalars("steps/he")] == [
        (0, 0),
        (1, 1),
        *((s, 20 + s) for s in range(2, 6)),
    ]
    assert [e.value for e in board.Scalars("log/st")][-1] == 0.25
