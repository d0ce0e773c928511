"""The configuration of a run, the layers of the learning rate, the schedule."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from storm.model import build_storm
from storm.pretraining.config import PretrainConfig
from storm.pretraining.config_groups import OptimiserConfig
from storm.pretraining.optimise import layer_id, lr_scales, make_optimiser, make_schedule


def test_the_defaults_are_the_papers_recipe():
    config = PretrainConfig()
    optimiser = config.optimiser
    assert (optimiser.epochs, optimiser.warmup_epochs, optimiser.batch_size) == (1000, 40, 1024)
    assert (optimiser.lr, optimiser.weight_decay, optimiser.layer_decay) == (1e-4, 0.05, 0.7)
    assert config.objective.n_visible == 5
    assert PretrainConfig.from_dict(config.to_dict()) == config
    assert PretrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


#: A file of version 0.1.0: fields without tables, or in tables of any name.
OLD = """
sections = ["a.zarr", "/data/b.zarr"]
out = "there"
he_only = 0.25
[network]
size = "tiny"
slope_scale = 2.5
[optimiser]
epochs = 3
warmup_epochs = 1
seed = 4
[ablation]
expression = "hvg"
window = 1
"""
#: The same in the tables of this version.
NEW = """
[data]
sections = ["a.zarr", "/data/b.zarr"]
window = 1
[st]
expression = "hvg"
[network]
size = "tiny"
slope_scale = 2.5
[objective]
he_only = 0.25
[optimiser]
epochs = 3
warmup_epochs = 1
[run]
out = "there"
seed = 4
"""


@pytest.mark.parametrize("text", [OLD, NEW], ids=["0.1.0", "tables"])
def test_a_file_is_read_and_its_paths_are_its_own(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    config = PretrainConfig.read(path)
    assert config.data.sections == (str(tmp_path / "a.zarr"), "/data/b.zarr")
    assert (config.run.out, config.data.shards) == (str(tmp_path / "there"), str(tmp_path / "shards"))
    assert (config.network.size, config.st.expression, config.data.window) == ("tiny", "hvg", 1)
    assert (config.optimiser.epochs, config.run.seed, config.objective.he_only) == (3, 4, 0.25)
    assert config.network.overrides()["slope_scale"] == 2.5


def test_fields_without_tables_are_all_fields():
    """A flat dictionary, as version 0.1.0 kept it beside a prepared run, gives back the same run."""
    config = PretrainConfig.from_dict({"sections": "a.zarr", "lr": 2e-3, "tile_px": 56, "width": 96, "nodes": 2})
    flat = config.flat()
    assert len(flat) == sum(len(values) for values in config.to_dict().values()) > 60
    assert (flat["lr"], flat["width"], flat["sections"]) == (2e-3, 96, ["a.zarr"])
    assert PretrainConfig.from_dict(flat) == config
    changed = config.changed(lr=3e-3)
    assert (changed.optimiser.lr, changed.network, changed.data) == (3e-3, config.network, config.data)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, "unknown fields.*'epoch'"),
        ({"a": {"lr": 1}, "b": {"lr": 2}}, "'lr' twice"),
        ({"data": {"paths": {"out": "x"}}}, "table 'paths' within the table 'data'"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"epochs": -1}, "epochs=-1"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": 1e30}, "lr=1e[+]30 is above 1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"min_lr": 1.0}, "min_lr=1.0 must be a number between 0 and 0.0001"),
        ({"weight_decay": float("inf")}, "weight_decay=inf must be a number of at least 0"),
        ({"sections": [1]}, "sections=.1. must be a list of names"),
        ({"out": 3}, "out=3 must be text"),
        ({"devices": "all"}, "devices='all'"),
        ({"he_only": 2}, "he_only=2"),
        ({"size": "huge"}, "size='huge'"),
        ({"heads": 5, "width": 32}, "not a multiple of heads"),
        ({"batch_size": 100, "section_batch": 64}, "batch_size=100"),
        ({"epochs": 10, "warmup_epochs": 10}, "warmup_epochs=10"),
        ({"expression": "model"}, "expression_model"),
        ({"tile_init": "random", "tile_weights": "x"}, "tile_weights='x'"),
        ({"window": 1, "tile_encoder": ""}, "window=1"),
        ({"decoder_depth": 0}, "decoder_depth=0"),
        ({"tile_px": 56.5}, r"tile_px=56\.5 must be a whole number"),
        ({"train_tiles": 1}, "train_tiles=1 must be true or false"),
        ({"train_tiles": True, "tile_encoder": ""}, "train_tiles=true needs a tile encoder"),
        ({"spatial_encoder": False, "tile_encoder": ""}, "spatial_encoder=false needs a tile encoder"),
        ({"spatial_encoder": False, "train_tiles": True}, "spatial_encoder=false trains nothing"),
        ({"crop_area": 0.0}, "crop_area=0.0"),
        ({"crop_ratio": 0.5}, "crop_ratio=0.5"),
        ({"tile_chunk": -1}, "tile_chunk=-1"),
        ({"refresh_tiles": 1}, "refresh_tiles=1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(values, said):
    with pytest.raises(ValueError, match=said):
        PretrainConfig.from_dict(values)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.toml"):
        PretrainConfig.read(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ValueError, match="not a valid TOML file"):
        PretrainConfig.read(tmp_path / "bad.toml")


def test_layers_of_the_network():
    names = {
        "project.he.weight": 0, "modality.st": 0, "blocks.0.attention.qkv.weight": 1, "blocks.5.experts.1.0.weight": 6,
        "norm.weight": 7, "decoders.he.blocks.0.attention.qkv.weight": 7, "decoders.st.out.bias": 7,
    }  # fmt: skip
    assert {name: layer_id(name, depth=6) for name in names} == names
    network = build_storm("tiny", n_genes=3)
    assert set(lr_scales(network, None, decay=0.7, over="tiles").values()) == {1}
    scales = lr_scales(network, None, decay=0.5, over="all")
    assert scales[network.blocks[0].norm_ffn.weight] == 0.25


def test_the_learning_rate_warms_up_and_falls_for_every_layer():
    network = build_storm("tiny", n_genes=7)
    config = OptimiserConfig(
        epochs=10, warmup_epochs=2, lr=1e-2, layer_decay=0.5, layer_decay_over="all", batch_size=64
    )
    optimiser = make_optimiser(network, config)
    held = sum(len(group["params"]) for group in optimiser.param_groups)
    assert held == len(list(network.parameters()))
    schedule = make_schedule(optimiser, config, steps_per_epoch=5)
    of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    top, bottom = of[id(network.norm.weight)], of[id(network.project["he"].weight)]
    assert (top["weight_decay"], bottom["weight_decay"]) == (0, 0.05)
    rates = []
    for step in range(50):
        schedule.step_update(step)
        rates.append(top["lr"])
        assert bottom["lr"] == pytest.approx(top["lr"] * 0.5**3)
    expected = [1e-2 * step / 10 for step in range(10)]
    expected += [0.5e-2 * (1 + np.cos(np.pi * step / 40)) for step in range(40)]
    np.testing.assert_allclose(rates, expected, atol=1e-9)
    schedule.step_update(17)
    assert top["lr"] == rates[17]
    assert isinstance(optimiser, torch.optim.AdamW)
