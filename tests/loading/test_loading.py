"""Models on disk: what is read is what was written, or an error says why not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import storm
from storm._loading import StormModel


def test_packaged_model_loads_and_names_itself():
    model = storm.load_model()
    assert model.name == "storm-mini"
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert model.head is not None
    assert len(model.head.genes) == len(model.head.reliability) == 500
    assert len(model.sha256) == 64
    assert storm.load_model(model) is model


def test_round_trip(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "m")
    again = storm.load_model(tmp_path / "m")
    assert again.sha256 == tiny_model.sha256
    assert again.vocabulary == tiny_model.vocabulary
    assert again.settings == tiny_model.settings
    for name, tensor in tiny_model.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    assert not list((tmp_path / "m").glob("*.part"))
    assert all(path.suffix in (".safetensors", ".json", ".tsv") for path in (tmp_path / "m").iterdir())


@pytest.fixture
def saved(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "m")
    return tmp_path / "m"


def test_unknown_model():
    with pytest.raises(ValueError, match=r"'storm-huge' is neither a packaged model \('storm-mini'"):
        storm.load_model("storm-huge")


@pytest.mark.parametrize("damage", ["flip", "truncate", "pickle", "remove"])
def test_damaged_weights(saved, damage):
    path = saved / "network.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "pickle":
        torch.save({"w": torch.zeros(3)}, path)
    else:
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"network\.safetensors"):
        storm.load_model(saved)


def test_a_pickle_is_not_read_even_if_its_checksum_fits(saved):
    from storm.model.weights import read_weights, sha256

    torch.save({"w": torch.zeros(3)}, saved / "network.safetensors")
    with pytest.raises(ValueError, match="never loaded"):
        read_weights(saved / "network.safetensors", expected=sha256(saved / "network.safetensors"))


def test_genes_and_format_are_checked(saved):
    genes = saved / "genes.tsv"
    text = genes.read_text()
    genes.write_text(text + "NEW\t\n")
    with pytest.raises(ValueError, match=r"genes\.tsv"):
        storm.load_model(saved)
    genes.write_text(text)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        storm.load_model(saved)


def test_weights_of_another_shape(saved):
    config = json.loads((saved / "config.json").read_text())
    config["network"]["width"] = 64
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit the network"):
        storm.load_model(saved)


def test_checksum_tells_networks_apart(tiny_model):
    values = {name: getattr(tiny_model, name) for name in StormModel.__dataclass_fields__}
    torch.manual_seed(99)
    other = StormModel(**{**values, "network": storm.model.Storm(tiny_model.config)})
    assert other.sha256 != tiny_model.sha256
    with pytest.raises(ValueError, match="readout='nose'"):
        StormModel(**{**values, "settings": {**tiny_model.settings, "readout": "nose"}})
    assert np.isfinite(tiny_model.statistic("he_mean")).all()
