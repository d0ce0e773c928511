"""Whole models: built by name, with any encoder, and what a folder of one holds and does not hold."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import storm
from storm._loading import StormModel
from storm.data.genes import Vocabulary, match_genes
from storm.encoders import get_encoder, load_encoder, with_weights, wrap_encoder
from storm.encoders.vit import vit
from storm.expression import FactorExpression, NovaeEncoder, PCAEncoder, VariableGenes

#: The paper's tile encoder, small enough for a test.
SMALL = replace(
    get_encoder("h0-mini"), dim=32, tile_px=28, any_size=True,
    architecture=vit(
        "vit_tiny_patch16_224", pooling="cls", swiglu=True, img_size=28, patch_size=14, embed_dim=32, depth=1,
        num_heads=2, reg_tokens=4,
    ),
)  # fmt: skip
NETWORK = {"width": 24, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture(scope="module")
def genes(toy_once):
    return tuple(map(str, toy_once.tables["table"].var_names))


@pytest.fixture
def small(monkeypatch):
    """The registry's H0-mini, shrunk, with random weights."""
    monkeypatch.setitem(storm.encoders.registry._REGISTRY, "h0-mini", SMALL)
    torch.manual_seed(1)
    return SMALL


@pytest.fixture
def base(small, genes):
    """storm-base with all its parts, and its numbers shrunk."""
    return storm.build_model("storm-base", genes=genes, **NETWORK)


def test_full_size_is_the_papers(genes, monkeypatch) -> None:
    monkeypatch.setattr("storm._loading.build._tile_encoder", get_encoder)  # 340 MB less
    model = storm.build_model(genes=genes)
    assert model.name == "storm-base"
    assert not model.trained
    assert model.tile_encoder.name == "h0-mini"
    assert isinstance(model.expression, NovaeEncoder)
    assert (model.config.he_dim, model.config.st_dim, model.config.width, model.config.depth) == (768, 64, 768, 6)
    assert sum(p.numel() for p in model.network.blocks.parameters()) == pytest.approx(70.9e6, rel=0.01)
    assert model.config.n_genes == len(genes)
    assert model.expression.context == "spot"


def test_random_weights_are_seeded_and_leave_torch_alone(genes) -> None:
    torch.manual_seed(5)
    one = storm.build_model("storm-tiny", genes=genes, seed=1)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    two = storm.build_model("storm-tiny", genes=genes, seed=1)
    assert torch.equal(torch.rand(3), drawn)
    assert one.sha256 == two.sha256 != storm.build_model("storm-tiny", genes=genes, seed=2).sha256


def test_base_runs_from_image_and_counts(base, toy, caplog) -> None:
    storm.tl.embed(toy, model=base, per_modality=True)
    table = toy.tables["table"]
    facts = table.uns["storm"]["X_storm"]
    assert np.isfinite(table.obsm["X_storm"]).all()
    assert (facts["tile_encoder"], facts["tile_px"], facts["field_um"]) == ("h0-mini", 28, 55.0)
    assert facts["tile_sha256"] == base.tile_encoder.sha256
    assert facts["trained"] is False
    assert "random weights" in caplog.text
    # expression alone, as on a machine without anybody's weights
    before = table.obsm["X_storm_st"].copy()
    storm.tl.embed(toy, model=base, modality="st", key_added="X_st")
    assert table.obsm["X_st"].shape == before.shape
    # a head on it
    head = storm.tl.fit_expression(toy, model=base, config=storm.HeadConfig(epochs=1))
    storm.tl.predict_expression(toy, model=base, head=head, keep="all")
    assert np.isfinite(table.layers["storm"][:, :5]).any()


def test_embed_takes_what_encode_tiles_left(base, toy, monkeypatch, caplog) -> None:
    storm.tl.embed(toy, model=base, key_added="X_whole")
    storm.tl.encode_tiles(toy, base.tile_encoder)
    table = toy.tables["table"]
    with monkeypatch.context() as patch:
        patch.setattr("storm._inference.tile_cache.encode_tiles", lambda *_, **__: pytest.fail("computed again"))
        storm.tl.embed(toy, model=base)
    assert table.uns["storm"]["X_storm"]["tiles_reused"]
    assert not table.uns["storm"]["X_whole"]["tiles_reused"]
    np.testing.assert_array_equal(table.obsm["X_storm"], table.obsm["X_whole"])
    # made from another field: not taken, and the user hears of it
    storm.tl.embed(toy, model=base, field_um=80, key_added="X_80")
    assert not table.uns["storm"]["X_80"]["tiles_reused"]
    assert "made with another field_um" in caplog.text
    assert not np.allclose(table.obsm["X_80"], table.obsm["X_storm"])


def test_folder_of_a_base_model(base, tmp_path, toy) -> None:
    base.save(tmp_path / "m")
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"tile_encoder.safetensors", "TILE_ENCODER_LICENCE.txt"} <= names
    licence = (tmp_path / "m" / "TILE_ENCODER_LICENCE.txt").read_text()
    assert "CC-BY-NC-ND" in licence
    assert "https://huggingface.co/bioptimus/H0-mini" in licence
    again = storm.load_model(tmp_path / "m")
    assert again.sha256 == base.sha256
    assert not again.trained
    assert again.tile_encoder.modified
    storm.tl.embed(toy, model=base)
    storm.tl.embed(toy, model=again, key_added="X_again")
    obsm = toy.tables["table"].obsm
    np.testing.assert_array_equal(obsm["X_storm"], obsm["X_again"])
    # its own weights of the tile encoder are checked as all others are
    state = load_file(tmp_path / "m" / "tile_encoder.safetensors")
    save_file({k: v + 1 for k, v in state.items()}, tmp_path / "m" / "tile_encoder.safetensors")
    with pytest.raises(ValueError, match=r"tile_encoder\.safetensors.*corrupted or was exchanged"):
        storm.tl.embed(toy, model=storm.load_model(tmp_path / "m"), key_added="X_wrong")
    assert "X_wrong" not in obsm


def test_published_weights_are_named_not_copied(small, genes, tmp_path, toy) -> None:
    save_file(small.architecture().backbone.state_dict(), tmp_path / "mine.safetensors")
    loaded = load_encoder("h0-mini", weights=tmp_path / "mine.safetensors")
    model = storm.build_model("storm-tiny", genes=genes, tile_encoder=loaded)
    model.save(tmp_path / "m")
    assert not (tmp_path / "m" / "tile_encoder.safetensors").exists()
    without = storm.load_model(tmp_path / "m")
    assert without.sha256 == model.sha256
    storm.tl.embed(toy, model=without, modality="st")
    with pytest.raises(FileNotFoundError, match=r"huggingface.co/bioptimus/H0-mini.*HF_TOKEN"):
        storm.tl.embed(toy, model=without)
    given = storm.load_model(tmp_path / "m", tile_encoder=tmp_path / "mine.safetensors")
    storm.tl.embed(toy, model=given, key_added="X_given")
    storm.tl.embed(toy, model=model, key_added="X_own")
    obsm = toy.tables["table"].obsm
    np.testing.assert_array_equal(obsm["X_given"], obsm["X_own"])
    # another file of the same architecture is not what it was trained with
    save_file(small.architecture().backbone.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="was trained with the tile encoder 'h0-mini'"):
        storm.load_model(tmp_path / "m", tile_encoder=tmp_path / "other.safetensors")


def test_users_own_tile_encoder(genes, tmp_path, toy) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6))
    mine = wrap_encoder(module, name="mine", dim=6, tile_px=16, field_um=60)
    model = storm.build_model("storm-tiny", genes=genes, tile_encoder=mine)
    storm.tl.embed(toy, model=model)
    model.save(tmp_path / "m")
    without = storm.load_model(tmp_path / "m")
    assert (without.tile_encoder.name, without.tile_encoder.field_um) == ("mine", 60)
    with pytest.raises(FileNotFoundError, match=r"'mine', whose network storm does not know.*wrap_encoder"):
        storm.tl.embed(toy, model=without, key_added="X_2")
    storm.tl.embed(toy, model=storm.load_model(tmp_path / "m", tile_encoder=mine), key_added="X_2")
    obsm = toy.tables["table"].obsm
    np.testing.assert_array_equal(obsm["X_2"], obsm["X_storm"])
    with pytest.raises(ValueError, match="instead of its weights alone"):
        storm.load_model(tmp_path / "m", tile_encoder=tmp_path)


@pytest.mark.parametrize("kind", ["hvg", "pca", "novae-full"])
def test_any_expression_encoder(kind, genes, toy, tmp_path) -> None:
    table = toy.tables["table"]
    if kind == "novae-full":
        from storm.expression.novae_models import random_novae

        shape = {"embedding_size": 8, "hidden_size": 16, "heads": 2, "output_size": 8, "num_layers": 2}
        encoder = NovaeEncoder(random_novae(genes, **shape), context="full")
    elif kind == "hvg":
        encoder = VariableGenes.fit(table.X, genes, n_top=40)
    else:
        encoder = PCAEncoder.fit(table.X, genes, n_components=6)
    model = storm.build_model("storm-tiny", expression=encoder)
    assert model.config.st_dim == encoder.dim
    model.save(tmp_path / "m")
    again = storm.load_model(tmp_path / "m")
    assert again.sha256 == model.sha256
    assert type(again.expression) is type(encoder)
    storm.tl.embed(toy, model=model)
    storm.tl.embed(toy, model=again, key_added="X_2")
    np.testing.assert_array_equal(table.obsm["X_2"], table.obsm["X_storm"])
    assert np.isfinite(table.obsm["X_2"]).all()


def test_distances_are_needed_in_um(genes, toy_once) -> None:
    from anndata import AnnData

    from storm.expression.novae_models import random_novae

    encoder = NovaeEncoder(random_novae(genes, embedding_size=8, hidden_size=16, heads=2, num_layers=2), context="full")
    table = toy_once.tables["table"]
    adata = AnnData(table.X.copy(), obs=table.obs[[]].copy(), var=table.var[[]].copy())
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 1000, (adata.n_obs, 2))
    with pytest.raises(ValueError, match=r"reads distances in µm.*um_per_px"):
        storm.tl.embed(adata, model=storm.build_model("storm-tiny", expression=encoder))
    assert not adata.obsm.get("X_storm")


class OwnEncoder:
    """A user's class."""

    name, dim, needs_centres = "own", 4, False

    def __init__(self, genes):
        self.vocabulary = Vocabulary(tuple(genes))

    def match(self, genes):
        return match_genes(genes, self.vocabulary)

    def encode(self, counts, genes, *, centres=None):
        return np.asarray(counts[:, :4].todense(), dtype=np.float32)


def test_users_own_expression_encoder_runs_and_is_not_stored(genes, toy, tmp_path) -> None:
    model = storm.build_model("storm-tiny", expression=OwnEncoder(genes))
    storm.tl.embed(toy, model=model)
    with pytest.raises(TypeError, match="'own' is a OwnEncoder, which cannot be stored"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_first_format_is_read(tiny_model, tmp_path, toy) -> None:
    folder = tmp_path / "old"
    tiny_model.save(folder)
    new = json.loads((folder / "config.json").read_text())
    settings = {**new["settings"], "tile_encoder": "stain-texture", "min_genes": 33}
    old = {k: new[k] for k in ("network", "card", "sha256")} | {
        "format": 1, "expression_dim": new["expression"]["dim"], "settings": settings,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(old))
    model = storm.load_model(folder)
    assert model.sha256 == tiny_model.sha256
    assert model.expression.min_genes == 33
    assert model.tile_encoder is get_encoder("stain-texture")
    storm.tl.embed(toy, model=model)
    model.save(folder)
    assert json.loads((folder / "config.json").read_text())["format"] == 2


def test_packaged_weights_are_the_same_under_the_new_format() -> None:
    """The number under which storm-mini's first heads were trained."""
    model = storm.load_model()
    assert isinstance(model.expression, FactorExpression)
    assert model.sha256 == model.head.model_sha256


def test_parts_must_fit(genes, tiny_model) -> None:
    with pytest.raises(ValueError, match="has no genes of its own"):
        storm.build_model("storm-base")
    with pytest.raises(ValueError, match="'storm-huge' is not an option"):
        storm.build_model("storm-huge", genes=genes)
    with pytest.raises(ValueError, match="'h0-mini' gives 768 numbers a spot, and the network reads 89"):
        replace(tiny_model, tile_encoder=get_encoder("h0-mini"))
    with pytest.raises(ValueError, match="expression encoder 'own' gives 4 numbers"):
        replace(tiny_model, expression=OwnEncoder(genes))
    with pytest.raises(ValueError, match="has no weights to replace"):
        with_weights("stain-texture", nn.Identity())
    with pytest.raises(ValueError, match=r"do not fit tile encoder 'h0-mini': missing \['blocks"):
        with_weights("h0-mini", nn.Linear(3, 3))
    with pytest.raises(ValueError, match="is another model"):
        storm.load_model(sha256="0" * 64)
    assert storm.load_model(sha256=storm.load_model().sha256.upper()).name == "storm-mini"
    assert isinstance(tiny_model, StormModel)
