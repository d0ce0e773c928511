"""Tile encoders: what the registry says, the architectures without weights, and loading with its errors."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import storm
from storm.encoders import (
    EncoderInfo,
    LoadedEncoder,
    get_encoder,
    list_encoders,
    load_encoder,
    register,
    register_family,
    wrap_encoder,
)
from storm.encoders.loading import build_with, find_weights, read_state
from storm.encoders.vit import PooledViT, from_transformers, vit

#: Millions of parameters as published, and GFLOP of one 224 px tile as counted by others.
PUBLISHED = {
    "h0-mini": (85.74, 47.1), "h-optimus-0": (1130, 608), "h-optimus-1": (1130, 608), "uni": (303, 123),
    "uni2-h": (681, 371), "virchow": (631, None), "virchow2": (631, 340), "prov-gigapath": (1135, 456),
    "phikon": (86, 34), "phikon-v2": (303, 119), "hibou-b": (86, 47), "hibou-l": (304, 165),
}  # fmt: skip
TINY = {"img_size": 28, "patch_size": 14, "embed_dim": 16, "depth": 1, "num_heads": 2}


def tiny(*, pooling: str = "cls", **arguments):
    return vit("vit_tiny_patch16_224", pooling=pooling, **(TINY | arguments))


@pytest.fixture
def gated() -> EncoderInfo:
    """A gated encoder of the hub, small enough to be built."""
    return replace(get_encoder("h0-mini"), name="tiny", dim=16, tile_px=28, architecture=tiny())


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch) -> None:
    """No test sees the user's own downloads, or the network."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def cache_file(tmp_path, info, state) -> None:
    """Put weights where the hub's client keeps them."""
    root = tmp_path / "hf" / "hub" / ("models--" + info.hub_id.replace("/", "--"))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, root / "snapshots" / "abc" / "model.safetensors")


# ---------------------------------------------------------------------------------------------- the registry


def test_list_tells_all_of_each() -> None:
    table = storm.encoders.list()
    assert list(table.index) == list_encoders()
    assert {"h0-mini", "uni", "uni2-h", "conch", "conch-v1.5", "stain-texture", *PUBLISHED} <= set(table.index)
    told = ["maker", "dim", "tile_px", "field_um", "um_per_px", "native_um_per_px", "pooling", "licence", "gated"]
    assert table[[*told, "citation"]].notna().all(axis=None)
    hub = table.drop(index="stain-texture")
    assert hub[["hub_id", "page", "mean", "std", "citation"]].notna().all(axis=None)


def test_exact_facts_of_h0_mini() -> None:
    info = get_encoder("H0-mini")
    assert info.mean == (0.707223, 0.578729, 0.703617)
    assert info.std == (0.211883, 0.230117, 0.177517)
    assert (info.field_um, info.tile_px) == (55, 224)
    assert info.um_per_px == pytest.approx(0.2455, abs=1e-4)
    assert info.native_px(55) == 112
    assert info.licence.startswith("CC-BY-NC-ND")
    assert info.gated


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_tokens_fit_the_scale(name) -> None:
    info = get_encoder(name)
    assert info.tile_px % info.patch_px == 0
    assert info.native_px(info.tile_px * info.native_um_per_px) == info.tile_px


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"'uni3' is unknown; there are .*'uni2-h'.*timm:"):
        get_encoder("uni3")
    with pytest.raises(ValueError, match=r"vit_smal_patch16_224.*did you mean.*vit_small_patch16_224"):
        get_encoder("timm:vit_smal_patch16_224")
    with pytest.raises(ValueError, match="registered already"):
        register(get_encoder("uni"))


def test_one_size_only() -> None:
    with pytest.raises(ValueError, match="takes one input size only; use its own 448 px"):
        get_encoder("conch").native_px(55)
    with pytest.raises(ValueError, match="was not trained at one scale"):
        get_encoder("timm:vit_tiny_patch16_224").native_px(55)


# ---------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_architecture_without_weights(name) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    info = get_encoder(name)
    with torch.device("meta"):
        module = info.architecture().eval()
        with FlopCounterMode(display=False) as count:
            out = module(torch.empty(1, 3, info.tile_px, info.tile_px))
        small = module.tokens(torch.empty(2, 3, info.patch_px * 8, info.patch_px * 8))
    parameters, gflop = PUBLISHED[name]
    assert sum(p.numel() for p in module.parameters()) == info.n_parameters
    assert info.n_parameters / 1e6 == pytest.approx(parameters, rel=6e-3)
    assert count.get_total_flops() / 1e9 == pytest.approx(info.gflop, rel=1e-3)
    if gflop is not None:
        assert info.gflop == pytest.approx(gflop, rel=0.04)
    assert out.shape == (1, info.dim)
    assert module.backbone.num_prefix_tokens == info.prefix_tokens
    assert small.shape[:2] == (2, 64 + info.prefix_tokens)


def test_h0_mini_is_the_published_network() -> None:
    with torch.device("meta"):
        module = get_encoder("h0-mini").architecture()
        tokens = module.tokens(torch.empty(3, 3, 224, 224))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.backbone.state_dict().items()}
    assert sum(p.numel() for p in module.parameters()) == 85_739_520
    assert shapes["blocks.0.mlp.fc1.weight"] == (4096, 768)
    assert shapes["blocks.11.mlp.fc2.weight"] == (768, 2048)
    assert shapes["reg_token"] == (1, 4, 768)
    assert shapes["pos_embed"] == (1, 256, 768)
    assert tokens.shape == (3, 261, 768)


def test_pooling() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 28, 28)
    module = tiny(pooling="cls+mean", reg_tokens=4)().eval()
    tokens = module.tokens(x)
    assert tokens.shape == (2, 1 + 4 + 4, 16)
    torch.testing.assert_close(module(x), torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=1))
    torch.testing.assert_close(PooledViT(module.backbone, pooling="cls")(x), tokens[:, 0])


def test_timm_models_describe_themselves() -> None:
    info = get_encoder("timm:vit_small_patch14_dinov2.lvd142m")
    assert (info.dim, info.tile_px, info.patch_px, info.any_size) == (384, 518, 14, True)
    assert info.mean == (0.485, 0.456, 0.406)
    assert info.hub_id == "timm/vit_small_patch14_dinov2.lvd142m"
    with torch.device("meta"):
        assert info.architecture()(torch.empty(1, 3, 112, 112)).shape == (1, 384)
        convnext = get_encoder("timm:convnext_tiny")
        assert convnext.architecture()(torch.empty(1, 3, 64, 64)).shape == (1, convnext.dim)


def test_user_s_own() -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    facts = {"dim": 5, "tile_px": 32, "field_um": 16}
    info = wrap_encoder(module, name="own", **facts)
    assert info.build()(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert info.sha256 == wrap_encoder(module, name="own", **facts).sha256
    nn.init.zeros_(module[2].weight)
    assert info.sha256 != wrap_encoder(module, name="own", **facts).sha256
    called = wrap_encoder(lambda x: x.mean((2, 3)), name="means", dim=3, tile_px=8, field_um=8)
    assert called.build()(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    with pytest.raises(TypeError, match="not str"):
        wrap_encoder("resnet18", name="own", **facts)
    with pytest.raises(ValueError, match="mean and std belong together"):
        wrap_encoder(module, name="own", mean=(0, 0, 0), **facts)
    with pytest.raises(ValueError, match="field_um"):
        wrap_encoder(module, name="own", dim=5, tile_px=32, field_um=0)


# ---------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("where", ["file", "folder", "bin", "bin of a checkpoint", "half", "snapshot"])
def test_load_from_here(where, gated, tmp_path) -> None:
    torch.manual_seed(1)
    module = gated.architecture().eval()
    state = {k: v.contiguous() for k, v in module.backbone.state_dict().items()}
    path = tmp_path / "model.safetensors"
    if where == "half":
        save_file({k: v.half() for k, v in state.items()}, path)
    elif where.startswith("bin"):
        path = tmp_path / "pytorch_model.bin"
        torch.save({"model": state} if "checkpoint" in where else state, path)
    elif where == "snapshot":
        path = tmp_path / "snapshots" / "abc" / "model.safetensors"
        path.parent.mkdir(parents=True)
        save_file(state, path)
    else:
        save_file(state, path)
    loaded = load_encoder(gated, weights=tmp_path if where in ("folder", "snapshot") else path)
    x = torch.rand(2, 3, 28, 28)
    tolerance = {"atol": 1e-2, "rtol": 0} if where == "half" else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(loaded.build()(x), module(x), **tolerance)
    assert loaded.build().backbone.cls_token.dtype == torch.float32
    assert not loaded.build().training
    assert len(loaded.sha256) == 64
    assert gated.sha256 is None


def test_load_from_the_cache_offline(gated, tmp_path) -> None:
    torch.manual_seed(2)
    module = gated.architecture().eval()
    cache_file(tmp_path, gated, module.backbone.state_dict())
    x = torch.rand(1, 3, 28, 28)
    torch.testing.assert_close(load_encoder(gated).build()(x), module(x), atol=0, rtol=0)


def test_load_a_timm_model_without_its_classifier(tmp_path) -> None:
    import timm

    name = "test_vit.r160_in1k"
    whole = timm.create_model(name, pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    info = load_encoder(f"timm:{name}", weights=tmp_path)
    x = torch.rand(1, 3, info.tile_px, info.tile_px)
    out = info.build()(x)
    assert out.shape == (1, info.dim)
    torch.testing.assert_close(out, whole.forward_head(whole.forward_features(x), pre_logits=True))


def test_missing_weights_say_how_to_get_them(gated, monkeypatch) -> None:
    def refuse(*_, **__):
        pytest.fail("something was fetched that nobody asked for")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as error:
        load_encoder(gated)
    assert time.perf_counter() - start < 5
    said = str(error.value)
    for word in (
        "https://huggingface.co/bioptimus/H0-mini",
        "CC-BY-NC-ND",
        "gated",
        "HF_TOKEN",
        "HF_HOME",
        "weights='PATH'",
    ):
        assert word in said
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        get_encoder("h0-mini").build()


def test_offline_is_quick(gated, monkeypatch) -> None:
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"HF_HUB_OFFLINE is set.*HF_HOME"):
        load_encoder(gated, download=True)
    assert time.perf_counter() - start < 5
    # a hub that nobody listens for: refused at once, and asked once
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        load_encoder(gated, download=True)
    assert time.perf_counter() - start < 12


def test_gated_and_absent_on_the_hub(gated, monkeypatch, tmp_path) -> None:
    from huggingface_hub import errors

    asked = []

    def answer(kind):
        def download(repo, name, **options):
            asked.append((repo, name, options["token"]))
            raise kind.__new__(kind)  # without the response that its constructor wants

        return download

    monkeypatch.setattr("storm.encoders.hub.hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", answer(errors.GatedRepoError))
    with pytest.raises(PermissionError, match=r"does not give them to you.*accept the terms.*HF_TOKEN"):
        load_encoder(gated, download=True, token="mine")
    assert asked == [("bioptimus/H0-mini", "model.safetensors", "mine")]
    monkeypatch.setattr("huggingface_hub.hf_hub_download", answer(errors.EntryNotFoundError))
    with pytest.raises(FileNotFoundError, match="none of the files"):
        load_encoder(gated, download=True)
    save_file(gated.architecture().backbone.state_dict(), tmp_path / "fetched.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "fetched.safetensors"))
    assert load_encoder(gated, download=True).sha256


def test_wrong_files(gated, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_encoder(gated, weights=tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"holds no weights \(model.safetensors.*but readme.txt"):
        load_encoder(gated, weights=tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        load_encoder(gated, weights=tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="several files of weights"):
        find_weights(tmp_path)
    with pytest.raises(ValueError, match=r"do not fit.*missing \['blocks.0.*unknown \['x'\].*of 'bioptimus/H0-mini'"):
        build_with(gated, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'cls_token \(1, 1, 8\) instead of \(1, 1, 16\)'"):
        build_with(gated, gated.architecture().backbone.state_dict() | {"cls_token": torch.zeros(1, 1, 8)})
    with pytest.raises(ValueError, match="has no weights to load"):
        load_encoder("stain-texture", weights=tmp_path)
    assert load_encoder("stain-texture").build()


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_is_never_run(tmp_path) -> None:
    torch.save({"x": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(ValueError, match="holds more than tensors"):
        read_state(tmp_path / "evil.bin")
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(ValueError, match="instead of a state dict"):
        read_state(tmp_path / "list.bin")


@pytest.mark.parametrize(("name", "needed"), [("conch", "pip install git"), ("conch-v1.5", "wrap_encoder")])
def test_packages_that_are_not_here(name, needed) -> None:
    with pytest.raises(ImportError, match=needed):
        load_encoder(name)


# ---------------------------------------------------------------------------------------------- transformers' names


def published(module, *, registers: bool, swiglu: bool, style: str) -> dict[str, torch.Tensor]:
    """A timm transformer's state under the names that transformers gives a ViT, a DINOv2 or Hibou's network."""
    state, out = dict(module.backbone.state_dict()), {}
    if registers:
        position = torch.randn_like(state["cls_token"])
        out["embeddings.cls_token"] = state.pop("cls_token") - position
        out["embeddings.position_embeddings"] = torch.cat([position, state.pop("pos_embed")], dim=1)
        out["embeddings.register_tokens"] = state.pop("reg_token")
    else:
        out["embeddings.cls_token"] = state.pop("cls_token")
        out["embeddings.position_embeddings"] = state.pop("pos_embed")
    out["embeddings.mask_token"] = torch.zeros(1, 16)
    out["pooler.dense.weight"] = torch.zeros(16, 16)
    dino = style == "dinov2"
    fc = ("mlp.weights_in", "mlp.weights_out") if swiglu else ("mlp.fc1", "mlp.fc2")
    names = {
        "norm1": "norm1" if dino else "layernorm_before", "norm2": "norm2" if dino else "layernorm_after",
        "attn.proj": "attention.output.dense", "mlp.fc1": fc[0] if dino else "intermediate.dense",
        "mlp.fc2": fc[1] if dino else "output.dense", "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }  # fmt: skip
    for key, tensor in state.items():
        if not key.startswith("blocks."):
            whole = key.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            out[whole.replace("norm.", "layernorm.")] = tensor
            continue
        _, i, rest = key.split(".", 2)
        if rest.startswith("attn.qkv"):
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"encoder.layer.{i}.attention.attention.{part}.{rest.rsplit('.', 1)[1]}"] = piece
            continue
        old = next(o for o in names if rest.startswith(o))
        out[f"encoder.layer.{i}.{names[old]}{rest.removeprefix(old)}"] = tensor
    return out


@pytest.mark.parametrize(
    ("style", "arguments"),
    [
        ("vit", {}),
        ("dinov2", {"init_values": 0.1}),
        ("dinov2", {"init_values": 0.1, "swiglu": True, "mlp_ratio": 4.0, "reg_tokens": 4, "no_embed_class": True}),
    ],
    ids=["phikon", "phikon-v2", "hibou"],
)
def test_names_of_transformers(style, arguments) -> None:
    torch.manual_seed(0)
    module = tiny(**arguments)().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    state = published(module, registers="reg_tokens" in arguments, swiglu="swiglu" in arguments, style=style)
    back = from_transformers(state)
    own = module.backbone.state_dict()
    assert set(back) == set(own)
    for key, tensor in own.items():
        torch.testing.assert_close(back[key], tensor)
    assert from_transformers(own).keys() == own.keys()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((1, 1, 16), torch.nan), r"NaN or infinite in \['cls_token'\]"),
        (torch.full((1, 1, 16), -torch.inf), r"NaN or infinite in \['cls_token'\]"),
        (torch.ones(1, 1, 16, dtype=torch.int32), r"cls_token torch.int32 instead of torch.float32"),
        (torch.ones(1, 1, 16, dtype=torch.complex64), r"cls_token torch.complex64 instead of torch.float32"),
    ],
)
def test_weights_are_finite_real_numbers(gated, value, message) -> None:
    state = gated.architecture().backbone.state_dict()
    with pytest.raises(ValueError, match=message):
        build_with(gated, state | {"cls_token": value})
    assert build_with(gated, {name: tensor.half() for name, tensor in state.items()}) is not None


# ---------------------------------------------------------------------------------------------- descriptions


def test_normalise_is_per_channel() -> None:
    info = get_encoder("h0-mini")
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (info.mean, info.std))
    y = info.normalise(x)
    assert y.dtype == x.dtype
    for channel in range(3):
        torch.testing.assert_close(y[:, channel], (x[:, channel] - mean[channel]) / std[channel])
    assert get_encoder("stain-texture").normalise(x) is x


def test_a_description_has_no_weights_and_a_loaded_encoder_has() -> None:
    info = get_encoder("uni")
    assert type(info) is EncoderInfo
    assert (info.sha256, info.modified) == (None, False)
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    mine = wrap_encoder(module, name="mine", dim=3, tile_px=8, field_um=50, mean=[0.5, 0.5, 0.5], std=[1, 2, 4])
    assert isinstance(mine, LoadedEncoder)
    assert mine.mean == (0.5, 0.5, 0.5)
    assert mine.sha256 is not None
    assert mine.build() is module
    renamed = replace(mine, name="other")
    assert (renamed.sha256, renamed.name) == (mine.sha256, "other")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", 2.5), ("dim", True), ("tile_px", 0), ("field_um", float("nan")), ("patch_px", -1), ("name", ""),
        ("mean", (0.0, 1.0)), ("mean", (0.0, 1.0, float("inf"))), ("std", (1.0, 0.0, 1.0)), ("std", "abc"),
        ("native_um_per_px", 0),
    ],
)  # fmt: skip
def test_a_description_names_its_bad_field(field, value) -> None:
    with pytest.raises((TypeError, ValueError), match=field):
        replace(get_encoder("h0-mini"), **{field: value})


def test_families(monkeypatch) -> None:
    monkeypatch.setattr("storm.encoders.registry._FAMILIES", dict(storm.encoders.registry._FAMILIES))
    register_family("zoo:", lambda name: replace(get_encoder("uni"), name=name))
    assert get_encoder("zoo:lion").name == "zoo:lion"
    with pytest.raises(ValueError, match="'zoo:' is empty or taken"):
        register_family("zoo:", get_encoder)
    with pytest.raises(ValueError, match="registered already"):
        register(get_encoder("zoo:lion"))
    with pytest.raises(ValueError, match="begins with one of"):
        wrap_encoder(nn.Identity(), name="zoo:own", dim=3, tile_px=8, field_um=50)


@pytest.mark.parametrize("call", [get_encoder, load_encoder, lambda e: storm.encoders.with_weights(e, nn.Identity())])
def test_an_encoder_is_a_name_or_a_description(call) -> None:
    with pytest.raises(TypeError, match=r"is given by its name.*not by 5"):
        call(5)


def test_weights_are_a_path(gated) -> None:
    with pytest.raises(TypeError, match=r"weights=5.*must be the path"):
        load_encoder(gated, weights=5)
