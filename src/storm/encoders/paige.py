"""Paige: Virchow, Virchow2."""

from __future__ import annotations

from typing import Any

from storm.encoders.vit import IMAGENET, register_hub, vit

_COMMON = {
    "maker": "Paige",
    "dim": 2560,
    "tile_px": 224,
    "field_um": 112.0,
    "native_um_per_px": 0.5,
    "patch_px": 14,
    "pooling": "cls+mean",
    "gated": True,
}
_HUGE: dict[str, Any] = {
    "pooling": "cls+mean",
    "swiglu": True,
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
}

VIRCHOW = register_hub(
    name="virchow",
    prefix_tokens=1,
    n_parameters=631_229_184,
    gflop=334.76,
    licence="Apache-2.0",
    hub_id="paige-ai/Virchow",
    citation="Vorontsov et al. (2024), doi:10.1038/s41591-024-03141-0",
    architecture=vit("vit_huge_patch14_224", **_HUGE),
    **_COMMON,
    **IMAGENET,
)

VIRCHOW2 = register_hub(
    name="virchow2",
    prefix_tokens=5,
    n_parameters=631_239_424,
    gflop=340.13,
    licence="CC-BY-NC-ND-4.0",
    hub_id="paige-ai/Virchow2",
    citation="Zimmermann et al. (2024), arXiv:2408.00738",
    architecture=vit("vit_huge_patch14_224", reg_tokens=4, **_HUGE),
    **_COMMON,
    **IMAGENET,
)
