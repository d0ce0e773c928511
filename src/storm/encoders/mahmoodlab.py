"""Mahmood Lab: UNI, UNI2-h, CONCH, CONCH v1.5."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, cast

from torch import Tensor, nn

from storm.encoders.vit import IMAGENET, register_hub, vit

_COMMON = {"maker": "Mahmood Lab", "native_um_per_px": 0.5, "licence": "CC-BY-NC-ND-4.0", "gated": True}
_UNI = {
    "tile_px": 224,
    "field_um": 112.0,
    "pooling": "cls",
    "citation": "Chen et al. (2024), doi:10.1038/s41591-024-02857-3",
}

UNI = register_hub(
    name="uni",
    dim=1024,
    patch_px=16,
    prefix_tokens=1,
    n_parameters=303_350_784,
    gflop=123.11,
    hub_id="MahmoodLab/UNI",
    architecture=vit("vit_large_patch16_224", pooling="cls", img_size=224, patch_size=16, init_values=1e-5),
    **_UNI,
    **_COMMON,
    **IMAGENET,
)

UNI2_H = register_hub(
    name="uni2-h",
    dim=1536,
    patch_px=14,
    prefix_tokens=9,
    n_parameters=681_394_176,
    gflop=370.94,
    hub_id="MahmoodLab/UNI2-h",
    architecture=vit(
        "vit_giant_patch14_224",
        pooling="cls",
        swiglu=True,
        img_size=224,
        patch_size=14,
        depth=24,
        num_heads=24,
        init_values=1e-5,
        embed_dim=1536,
        mlp_ratio=2.66667 * 2,
        no_embed_class=True,
        reg_tokens=8,
    ),
    **_UNI,
    **_COMMON,
    **IMAGENET,
)


class _Conch(nn.Module):
    """The image side of CONCH, before its projection into the space that it shares with text."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.backbone = visual

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings of tiles (B, 3, 448, 448), shape (B, 512)."""
        return cast("Any", self.backbone).forward_no_head(x, normalize=False)


def _conch() -> nn.Module:
    if find_spec("conch") is None:
        msg = (
            "tile encoder 'conch' needs the package 'conch' of its makers; install it with: "
            "pip install git+https://github.com/Mahmoodlab/CONCH.git"
        )
        raise ImportError(msg)
    import json
    from importlib.resources import files

    from conch.open_clip_custom.coca_model import CoCa

    # The package's own loader unpickles; only its network is taken.
    config = json.loads((files("conch.open_clip_custom") / "model_configs" / "conch_ViT-B-16.json").read_text())
    config.pop("custom_text", None)
    return _Conch(CoCa(**config).visual)


def _conch_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}


def _conch_v15() -> nn.Module:
    msg = (
        "tile encoder 'conch-v1.5' is published as code that transformers downloads and runs (trust_remote_code), "
        "which storm does not do; with the package 'transformers', load it yourself as its page says "
        "(https://huggingface.co/MahmoodLab/TITAN) and give the module to storm.encoders.wrap_encoder(module, "
        "name='conch-v1.5', dim=768, tile_px=448, field_um=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    )
    raise ImportError(msg)


CONCH = register_hub(
    name="conch",
    dim=512,
    tile_px=448,
    field_um=256.0,
    patch_px=16,
    pooling="attention",
    any_size=False,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    hub_id="MahmoodLab/CONCH",
    citation="Lu et al. (2024), doi:10.1038/s41591-024-02856-4",
    needs="conch",
    architecture=_conch,
    convert=_conch_state,
    **_COMMON,
)

CONCH_V15 = register_hub(
    name="conch-v1.5",
    dim=768,
    tile_px=448,
    field_um=256.0,
    pooling="attention",
    any_size=False,
    hub_id="MahmoodLab/conchv1_5",
    citation="Ding et al. (2024), arXiv:2411.19666",
    needs="transformers",
    architecture=_conch_v15,
    **_COMMON,
    **IMAGENET,
)
