"""``storm pretrain``, from stored sections to a model that embeds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import storm
from storm.cli import main
from storm.pretraining.shards import open_shard

# anndata tells those who write that its next version will write otherwise
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

RUN = """
sections = ["sections", "more/cells.zarr"]
tile_encoder = "stain-texture"
validation_share = 0.15
[network]
size = "tiny"
expression_dim = 8
[optimiser]
epochs = 2
warmup_epochs = 1
batch_size = 64
section_batch = 32
lr = 1e-3
[machine]
accelerator = "cpu"
devices = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Sections of two platforms, pitches and panels, one of them without an image."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "sections").mkdir()
    (root / "more").mkdir()
    visium = storm.datasets.toy("visium", n=150, seed=0)
    visium.write(root / "sections" / "visium.zarr")
    cells = storm.datasets.toy("xenium", n=150, seed=1)
    del cells.images["he"]
    cells.tables["table"] = cells.tables["table"][:, 40:].copy()
    cells.write(root / "more" / "cells.zarr")
    (root / "run.toml").write_text(RUN)
    return root


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    assert main(["pretrain", str(folder / "run.toml"), "--quiet"]) == 0
    return folder / "pretrained"


def test_sections_become_a_model_that_embeds(folder, trained):
    shards = {name: open_shard(folder / "shards" / name) for name in ("visium", "cells")}
    assert {name: shard.facts["kind"] for name, shard in shards.items()} == {"visium": "hex", "cells": "knn"}
    assert {name: shard.has("he") for name, shard in shards.items()} == {"visium": True, "cells": False}
    sdata = storm.datasets.toy("visium", n=150, seed=0)
    table = sdata.tables["table"]
    np.testing.assert_array_equal(shards["visium"].counts(np.arange(150)).toarray(), table.X.toarray())
    assert shards["visium"].genes == list(table.var_names)
    storm.tl.encode_tiles(sdata, "stain-texture")
    np.testing.assert_allclose(shards["visium"].array("he"), table.obsm["X_stain-texture"], rtol=1e-5, atol=1e-6)

    model = storm.load_model(trained / "model")
    assert model.trained
    for readout in ("center", "window", "reconstruction"):
        storm.tl.embed(sdata, model=model, readout=readout)
        assert np.isfinite(table.obsm["X_storm"]).all()
    assert table.uns["storm"]["X_storm"]["sha256"] == model.sha256
    assert str(folder) not in json.dumps(model.card)


def test_what_training_sees_is_what_embedding_sees(folder, trained):
    """The tokens of the run are those that ``embed`` makes of the same section with the trained model."""
    from storm._bridge import read_spots
    from storm._inference.tokens import he_tokens, st_tokens

    model = storm.load_model(trained / "model")
    spots = read_spots(storm.datasets.toy("visium", n=150, seed=0))
    st, match = st_tokens(spots, model)
    assert match.n_shared == len(spots.genes)
    np.testing.assert_allclose(np.load(trained / "tokens" / "visium" / "st.npy"), st, rtol=1e-4, atol=1e-5)
    raw = open_shard(folder / "shards" / "visium").array("he")
    np.testing.assert_array_equal(np.load(trained / "tokens" / "visium" / "he.npy"), he_tokens(raw, model))


def test_a_run_goes_on_without_its_sections_and_another_uses_its_shards(folder, trained, capsys):
    packed = (folder / "shards" / "visium" / "shard.json").stat().st_mtime_ns
    (folder / "again.toml").write_text(RUN.replace('"sections"', '"gone"'))
    assert main(["pretrain", str(folder / "again.toml"), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("pretrained: ")
    (folder / "other.toml").write_text(RUN.replace("sections =", 'out = "other"\nsections =', 1))
    assert main(["pretrain", str(folder / "other.toml"), "--seed", "3", "--prepare-only", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("prepared: ")
    assert not (folder / "other" / "model").exists()
    assert json.loads((folder / "other" / "prepared.json").read_text())["config"]["run"]["seed"] == 3
    assert (folder / "shards" / "visium" / "shard.json").stat().st_mtime_ns == packed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"sections", ', '"nothing", '), "does not exist"),
        (('"sections", ', '"shards", '), "no *.zarr"),
        (('"sections", ', '"more", '), "both called 'cells'"),
        (('sections = ["sections", "more/cells.zarr"]', ""), "names no sections"),
        (('"stain-texture"', '"nobody"'), "nobody"),
        (('"stain-texture"', '""'), "other settings (tile_encoder: 'stain-texture' stored, None here"),
        (("epochs = 2", "epochs = -2"), "epochs=-2"),
        (("lr = 1e-3", "lr = 1e-3\nspeed = 9"), "unknown fields ['speed']"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_one_line(change, said, folder, trained, capsys):
    path = folder / "wrong.toml"
    path.write_text(('out = "wrong"' + RUN).replace(*change))
    assert main(["pretrain", str(path), "--quiet"]) == 2
    text = capsys.readouterr().err
    assert said in text
    assert len([line for line in text.splitlines() if line.startswith("storm pretrain: error")]) == 1
    assert not (folder / "wrong" / "prepared.json").exists()


def test_another_configuration_of_the_same_run_is_refused(folder, trained, capsys):
    (folder / "changed.toml").write_text(RUN.replace("lr = 1e-3", "lr = 2e-3"))
    assert main(["pretrain", str(folder / "changed.toml"), "--quiet"]) == 2
    assert "lr: 0.001 there, 0.002 here" in capsys.readouterr().err
    (folder / "later.zarr").mkdir(exist_ok=True)
    (folder / "changed.toml").write_text(RUN.replace('"sections", ', '"sections", "later.zarr", '))
    assert main(["pretrain", str(folder / "changed.toml"), "--quiet"]) == 2
    assert "without the sections ['later']" in capsys.readouterr().err
