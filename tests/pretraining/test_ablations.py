"""The paper's ablations, each a field of the configuration and a tiny run from stored sections to an embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import storm
from storm.cli._pretrain import pretrain
from storm.data.normalise import standardise
from storm.pretraining.shards import open_shard
from storm.pretraining.start import tile_encoder_of

# anndata tells those who write that its next version will write otherwise
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

RUN = """
sections = ["sections"]
shards = "{shards}"
out = "{out}"
tile_px = 32
field_um = 55.0
batch_size = 64
section_batch = 32
lr = 1e-3
warmup_epochs = 0
size = "tiny"
expression_dim = 8
validation_share = 0.0
accelerator = "cpu"
devices = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A stored section, and weights that somebody has published."""
    from safetensors.torch import save_file

    from storm.encoders import get_encoder

    root = tmp_path_factory.mktemp("ablations")
    (root / "sections").mkdir()
    storm.datasets.toy("visium", n=60, seed=0).write(root / "sections" / "toy.zarr")
    torch.manual_seed(7)
    save_file(get_encoder("timm:test_vit").architecture().state_dict(), root / "published.safetensors")
    return root


def run(folder: Path, name: str, *, shards: str = "shards", **fields):
    """Write a configuration of RUN and the fields, run it, and load the model; also the run's configuration."""
    from storm.pretraining.config import PretrainConfig

    weights = {} if "tile_init" in fields else {"tile_weights": "published.safetensors"}
    fields = {"tile_encoder": "timm:test_vit", "epochs": 1} | weights | fields
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in fields.items()
    ]
    path = folder / f"{name}.toml"
    path.write_text(RUN.format(shards=shards, out=name) + "\n".join(lines) + "\n")
    pretrain(config=path, seed=None, prepare_only=False)
    own = "tile_init" in fields or "train_tiles" in fields
    given = None if own else folder / "published.safetensors"
    return PretrainConfig.read(path), storm.load_model(folder / name / "model", tile_encoder=given)


def embedding(model, **how) -> np.ndarray:
    sdata = storm.datasets.toy("visium", n=60, seed=0)
    storm.tl.embed(sdata, model=model, field_um=55.0, **how)
    return sdata.tables["table"].obsm["X_storm"]


@pytest.fixture(scope="module")
def whole(folder):
    """Nothing left out."""
    return run(folder, "whole")[1]


def test_a_tile_encoder_with_random_weights(folder, whole):
    config, model = run(folder, "random", shards="random-shards", tile_init="random")
    assert model.tile_encoder.modified
    assert not whole.tile_encoder.modified
    assert model.tile_encoder.sha256 == tile_encoder_of(config).sha256 != whole.tile_encoder.sha256
    assert not np.allclose(embedding(model), embedding(whole))


@pytest.mark.parametrize("readout", [None, "center"])
def test_the_tile_encoder_without_storm(folder, whole, readout):
    _, model = run(folder, "plain", spatial_encoder=False)
    found = embedding(model, modality="he", readout=readout)
    raw = np.array(open_shard(folder / "shards" / "toy").array("he"))
    tokens = standardise(raw, model.statistic("he_mean"), model.statistic("he_std"), within=True, clip=6.0)
    expected = (tokens - tokens.mean(axis=1, keepdims=True)) / tokens.std(axis=1, keepdims=True)
    # As every embedding: around the section's mean, of one length.
    expected -= expected.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert model.trained
    assert model.tile_encoder.sha256 == whole.tile_encoder.sha256
    assert "without STORM" in model.card["summary"]
    assert not list((folder / "plain" / "checkpoints").glob("*"))


def test_the_raw_vector_of_variable_genes(folder):
    _, model = run(folder, "hvg", expression="hvg", hvg_genes=50)
    assert (model.expression.kind, model.config.st_dim) == ("genes", 50)
    assert np.isfinite(embedding(model)).all()


def test_no_neighbourhood(folder):
    _, model = run(folder, "alone", shards="alone-shards", window=1)
    assert open_shard(folder / "alone-shards" / "toy").index.shape == (60, 1)
    start = storm.load_model(folder / "alone" / "start")
    decoder = "decoders.st.out.weight"
    assert not torch.equal(model.network.state_dict()[decoder], start.network.state_dict()[decoder])
    assert np.isfinite(embedding(model, readout="center")).all()


def test_no_pretraining(folder, whole):
    _, model = run(folder, "untrained", epochs=0)
    start = storm.load_model(folder / "whole" / "start")
    assert not model.trained
    assert model.sha256 == start.sha256 != whole.sha256


def test_all_of_it_end_to_end(folder, whole):
    """Pixels are packed as the tile encoder gets them; a run on embeddings may use these shards too."""
    with pytest.raises(ValueError, match=r"packed with other settings \(pixels: False stored, True here\)"):
        run(folder, "end", train_tiles=True)
    _, model = run(folder, "end", shards="end-shards", train_tiles=True)
    shard = open_shard(folder / "end-shards" / "toy")
    from storm._bridge import read_spots

    spots = read_spots(storm.datasets.toy("visium", n=60, seed=0))
    inside = np.flatnonzero(spots.patches.inside(spots.centres))
    expected = spots.patches.read(spots.centres[inside], field_um=55.0, out_px=32)
    np.testing.assert_array_equal(shard.array("patches")[inside], expected)
    assert model.tile_encoder.modified
    assert model.tile_encoder.sha256 != whole.tile_encoder.sha256
    assert np.isfinite(embedding(model)).all()
    assert run(folder, "cached", shards="end-shards")[1].sha256 == whole.sha256
