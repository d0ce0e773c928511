"""``storm.tl.encode_tiles``: geometry, provenance, reuse, precision, and what happens when it fails."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import spatialdata
import torch
from safetensors.torch import save_file
from torch import nn

import storm
from storm._bridge import read_spots
from storm._bridge.image import levels_of
from storm.encoders import get_encoder, load_encoder, wrap_encoder
from storm.encoders.vit import vit

#: A transformer as the makers' ones, with registers and gated layers, small enough for a test.
TINY = vit(
    "vit_tiny_patch16_224", pooling="cls+mean", swiglu=True, img_size=56, patch_size=14, embed_dim=48, depth=3,
    num_heads=3, reg_tokens=4, init_values=1e-1,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    module = TINY()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.06)
    return wrap_encoder(
        module.eval(), name="tiny:vit", dim=96, tile_px=56, field_um=55, mean=(0.7, 0.58, 0.7), std=(0.21, 0.23, 0.18),
        patch_px=14, any_size=True, native_um_per_px=2.0,
    )  # fmt: skip


class Probe(nn.Module):
    """Says what it was given: mean colour, size, and how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        size = torch.full((len(x), 1), float(x.shape[-1]))
        return torch.cat([x.mean((2, 3)) * self.scale, size], dim=1)


@pytest.fixture
def probe():
    return wrap_encoder(
        Probe(), name="probe", dim=4, tile_px=16, field_um=80, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), any_size=True,
        native_um_per_px=4.0,
    )  # fmt: skip


def test_means_of_the_tiles(toy, probe) -> None:
    assert storm.tl.encode_tiles(toy, probe) is None
    table = toy.tables["table"]
    out = table.obsm["X_probe"]
    spots = read_spots(toy, image=True, table=False)
    patches = spots.patches.read(spots.centres, field_um=80, out_px=16)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[:, :3], (patches.mean((1, 2)) / 255 - 0.5) / 0.5, atol=1e-4)
    assert (out[:, 3] == 16).all()
    facts = table.uns["storm"]["X_probe"]
    assert (facts["encoder"], facts["field_um"], facts["tile_px"]) == ("probe", 80.0, 16)
    assert facts["sha256"] == probe.sha256
    assert facts["um_per_px"] == pytest.approx(spots.patches.um_per_px)
    assert facts["precision"] == "fp32"


@pytest.mark.parametrize(
    ("arguments", "size"),
    [({}, 16), ({"tile_px": 24}, 24), ({"tile_px": "native"}, 20), ({"tile_px": "native", "field_um": 40}, 10)],
)
def test_input_size(toy, probe, arguments, size) -> None:
    storm.tl.encode_tiles(toy, probe, **arguments)
    table = toy.tables["table"]
    assert (table.obsm["X_probe"][:, 3] == size).all()
    assert table.uns["storm"]["X_probe"]["tile_px"] == size


def test_h0_mini_s_two_scales() -> None:
    from storm.tl._encode_tiles import input_size

    info = get_encoder("h0-mini")
    assert input_size(info, None, field_um=55) == 224
    assert input_size(info, "native", field_um=55) == 112
    with pytest.raises(ValueError, match=r"multiples of 14 px, not tile_px=110; the nearest is 112"):
        input_size(info, 110, field_um=55)
    with pytest.raises(ValueError, match="takes 448 px only, not tile_px=224"):
        input_size(get_encoder("conch"), 224, field_um=55)
    with pytest.raises(ValueError, match="neither a whole number of pixels nor 'native'"):
        input_size(info, "nativ", field_um=55)


def test_used_again_only_if_all_is_the_same(toy, probe, caplog, monkeypatch) -> None:
    monkeypatch.setattr(storm._logging.logger, "propagate", True)
    module = probe.build()
    storm.tl.encode_tiles(toy, probe)
    calls = module.calls
    with caplog.at_level(logging.INFO, logger="storm"):
        storm.tl.encode_tiles(toy, probe, batch_size=7)
    assert "already holds these embeddings" in caplog.text
    assert module.calls == calls
    for change in ({"field_um": 70}, {"tile_px": 20}, {"precision": "bf16"}, {"recompute": True}):
        storm.tl.encode_tiles(toy, probe, **change)
        assert module.calls > calls, change
        storm.tl.encode_tiles(toy, probe, recompute=True)
        calls = module.calls
    nn.init.constant_(module.scale, 2.0)
    again = wrap_encoder(
        module, name="probe", dim=4, tile_px=16, field_um=80, mean=(0.5,) * 3, std=(0.5,) * 3, any_size=True
    )
    storm.tl.encode_tiles(toy, again)
    assert module.calls > calls


def test_a_change_in_one_place_of_the_image_is_seen(toy, probe) -> None:
    module = probe.build()
    storm.tl.encode_tiles(toy, probe)
    before, calls = toy.tables["table"].obsm["X_probe"].copy(), module.calls
    spots = read_spots(toy, image=True, table=False)
    for element, level in zip(levels_of(toy.images["he"]), spots.reader.levels, strict=True):
        x, y = (level.um_to_px[:, :2] @ spots.centres[77] + level.um_to_px[:, 2]).astype(int)
        half = max(1, round(10 / level.um_per_px))
        pixels = np.array(element.to_numpy())
        pixels[:, y - half : y + half, x - half : x + half] = 0
        element.data = pixels
    storm.tl.encode_tiles(toy, probe)
    assert module.calls > calls
    changed = np.abs(toy.tables["table"].obsm["X_probe"] - before).max(axis=1) > 0
    assert changed[77]
    assert changed.sum() < 20


def test_another_image_or_order_is_computed(toy, probe) -> None:
    module = probe.build()
    storm.tl.encode_tiles(toy, probe)
    before, calls = toy.tables["table"].obsm["X_probe"], module.calls
    toy.tables["table"] = toy.tables["table"][::-1].copy()
    storm.tl.encode_tiles(toy, probe)
    assert module.calls > calls
    np.testing.assert_allclose(toy.tables["table"].obsm["X_probe"], before[::-1], atol=1e-5)
    other = storm.datasets.toy("visium", n=150, seed=1)
    other.tables["table"].obsm["X_probe"] = before
    other.tables["table"].uns["storm"] = {
        **other.tables["table"].uns.get("storm", {}),
        **toy.tables["table"].uns["storm"],
    }
    storm.tl.encode_tiles(other, probe)
    assert not np.allclose(other.tables["table"].obsm["X_probe"], before)


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")
def test_stored_and_used_again(toy, tiny, tmp_path, monkeypatch) -> None:
    storm.tl.encode_tiles(toy, tiny)
    assert "X_tiny_vit" in toy.tables["table"].obsm
    toy.write(tmp_path / "section.zarr")
    back = spatialdata.read_zarr(tmp_path / "section.zarr")
    monkeypatch.setattr("storm._inference.tile_cache.encode_tiles", lambda *_, **__: pytest.fail("computed again"))
    storm.tl.encode_tiles(back, tiny)


def test_weights_from_a_folder(toy, tmp_path) -> None:
    import timm

    whole = timm.create_model("test_vit.r160_in1k", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    storm.tl.encode_tiles(toy, "timm:test_vit.r160_in1k", weights=tmp_path, tile_px=32, field_um=30)
    loaded = load_encoder("timm:test_vit.r160_in1k", weights=tmp_path)
    storm.tl.encode_tiles(toy, loaded, tile_px=32, field_um=30, key_added="again")
    table = toy.tables["table"]
    np.testing.assert_array_equal(table.obsm["X_timm_test_vit.r160_in1k"], table.obsm["again"])
    assert table.uns["storm"]["again"]["sha256"] == loaded.sha256


def test_nothing_is_left_where_weights_are_missing(toy, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(FileNotFoundError, match=r"bioptimus/H0-mini.*HF_TOKEN"):
        storm.tl.encode_tiles(toy, "h0-mini")
    assert not [key for key in toy.tables["table"].obsm if key.startswith("X_")]


def test_image_alone_and_copy(toy) -> None:
    from spatialdata import SpatialData

    image = SpatialData(images=dict(toy.images), attrs=toy.attrs)
    out = storm.tl.encode_tiles(image, "stain-texture", field_um=112, copy=True)
    assert out.tables["tiles"].obsm["X_stain-texture"].shape[1] == 89
    assert not image.tables
    again = storm.tl.encode_tiles(toy, "stain-texture", copy=True)
    assert "X_stain-texture" not in toy.tables["table"].obsm
    assert np.isfinite(again.tables["table"].obsm["X_stain-texture"]).all()


def test_wrong_output(toy, probe) -> None:
    lying = wrap_encoder(probe.build(), name="liar", dim=9, tile_px=16, field_um=80)
    with pytest.raises(ValueError, match=r"'liar' gave shape \(\d+, 4\) for \d+ tiles; dim is 9"):
        storm.tl.encode_tiles(toy, lying)
    inf = wrap_encoder(lambda x: x.mean((2, 3)) / 0, name="inf", dim=3, tile_px=16, field_um=80)
    with pytest.raises(ValueError, match="not finite for 150 tiles"):
        storm.tl.encode_tiles(toy, inf)
    assert "storm" not in toy.tables["table"].uns or "X_inf" not in toy.tables["table"].uns["storm"]


# ---------------------------------------------------------------------------------------------- precision and speed


def cosine(a, b) -> float:
    return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tile_px", [None, "native"])
def test_precision(toy, tiny, precision, tile_px) -> None:
    storm.tl.encode_tiles(toy, tiny, tile_px=tile_px, key_added="full")
    storm.tl.encode_tiles(toy, tiny, tile_px=tile_px, key_added="half", precision=precision)
    obsm = toy.tables["table"].obsm
    assert not np.array_equal(obsm["full"], obsm["half"])
    assert cosine(obsm["full"], obsm["half"]) >= 0.999


def test_channels_last_says_the_same(toy, tiny) -> None:
    storm.tl.encode_tiles(toy, tiny, key_added="plain")
    storm.tl.encode_tiles(toy, tiny, key_added="fast", channels_last=True)
    obsm = toy.tables["table"].obsm
    np.testing.assert_allclose(obsm["plain"], obsm["fast"], atol=1e-4)


@pytest.mark.parametrize("wrong", ["says other", "fails"])
def test_a_compiler_that_errs_is_not_used(toy, tiny, monkeypatch, wrong) -> None:
    def compiler(module):
        def run(x):
            if wrong == "fails":
                raise RuntimeError("no C++ compiler\nat all")
            return module(x) + torch.randn(len(x), 96) * 10

        return run

    monkeypatch.setattr("torch.compile", compiler)
    storm.tl.encode_tiles(toy, tiny, key_added="plain")
    said = r"compiled changes the embeddings \(cosine" if wrong == "says other" else "compiled fails here .no C"
    with pytest.warns(UserWarning, match=said):
        storm.tl.encode_tiles(toy, tiny, key_added="fast", compiled=True)
    obsm = toy.tables["table"].obsm
    np.testing.assert_allclose(obsm["plain"], obsm["fast"], atol=1e-5)


def test_several_devices_share_a_section(toy, tiny) -> None:
    """Regions and copies of the network, with the processor in the place of two GPUs."""
    storm.tl.encode_tiles(toy, tiny)
    storm.tl.encode_tiles(toy, tiny, device="cpu, cpu", key_added="two")
    storm.tl.encode_tiles(toy, tiny, device=["cpu"] * 3, key_added="three")
    table = toy.tables["table"]
    for key in ("two", "three"):
        np.testing.assert_allclose(table.obsm[key], table.obsm["X_tiny_vit"], atol=1e-5)
    assert table.uns["storm"]["two"]["device"] == "cpu,cpu"
    with pytest.raises(ValueError, match="'cuda:7' is not on this machine"):
        storm.tl.encode_tiles(toy, tiny, device="cpu,cuda:7")


def test_an_accelerator_cuts_its_own_tiles(toy, tiny, monkeypatch) -> None:
    """The way of a GPU, on the processor: canvases, cut there, gathered into batches of the size asked for."""
    from storm._inference import tiles

    spots = read_spots(toy, image=True, table=False)
    how = {"field_um": 55, "out_px": 56, "batch_size": 16, "device": torch.device("cpu")}
    encoder = get_encoder("stain-texture")  # takes values in [0, 1]
    plain = {
        row: tile.clone().numpy()
        for index, x in tiles.tile_batches(spots, spots.centres, encoder=encoder, **how)
        for row, tile in zip(index, x, strict=True)
    }
    sizes, seen = [], {}
    for index, x in tiles._rebatched(tiles._cut(spots, spots.centres, **how), 16):
        sizes.append(len(index))
        seen |= dict(zip(index, x.numpy(), strict=True))
    assert set(sizes[:-1]) == {16}
    assert seen.keys() == plain.keys()
    for row, tile in seen.items():
        assert np.abs(tile - plain[row]).max() <= 1 / 255 + 1e-6


def test_a_field_far_wider_than_the_image_is_a_slip(toy, probe) -> None:
    with pytest.raises(ValueError, match=r"field_um=100000 is .* times as wide as the whole image"):
        storm.tl.encode_tiles(toy, probe, field_um=1e5)
