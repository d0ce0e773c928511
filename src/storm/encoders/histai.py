"""HistAI: Hibou-B, Hibou-L. Published for the package transformers; the tensors are renamed to timm's names."""

from __future__ import annotations

from typing import Any

from storm.encoders.vit import from_transformers, register_hub, vit

_COMMON = {
    "maker": "HistAI",
    "tile_px": 224,
    "field_um": 112.0,
    "native_um_per_px": 0.5,
    "patch_px": 14,
    "prefix_tokens": 5,
    "pooling": "cls",
    "mean": (0.7068, 0.5755, 0.722),
    "std": (0.195, 0.2316, 0.1816),
    "licence": "Apache-2.0",
    "gated": True,
    "citation": "Nechaev et al. (2024), arXiv:2406.05074",
    "convert": from_transformers,
}
_NETWORK: dict[str, Any] = {"pooling": "cls", "swiglu": True, "img_size": 224, "init_values": 1e-5}

HIBOU_B = register_hub(
    name="hibou-b",
    dim=768,
    n_parameters=85_739_520,
    gflop=47.08,
    hub_id="histai/hibou-b",
    # Gated layers of DINOv2 are two thirds as wide, rounded up to a multiple of 8: 768 → 2048, 1024 → 2736.
    architecture=vit("vit_base_patch14_reg4_dinov2", mlp_ratio=2 * 2048 / 768, **_NETWORK),
    **_COMMON,
)

HIBOU_L = register_hub(
    name="hibou-l",
    dim=1024,
    n_parameters=303_657_216,
    gflop=164.85,
    hub_id="histai/hibou-L",
    architecture=vit("vit_large_patch14_reg4_dinov2", mlp_ratio=2 * 2736 / 1024, **_NETWORK),
    **_COMMON,
)
