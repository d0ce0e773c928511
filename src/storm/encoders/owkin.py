"""Owkin: Phikon, Phikon-v2. Published for the package transformers; the tensors are renamed to timm's names."""

from __future__ import annotations

from functools import partial

from torch import nn

from storm.encoders.vit import IMAGENET, from_transformers, register_hub, vit

_COMMON = {
    "maker": "Owkin",
    "tile_px": 224,
    "field_um": 112.0,
    "native_um_per_px": 0.5,
    "patch_px": 16,
    "prefix_tokens": 1,
    "pooling": "cls",
    "licence": "Owkin non-commercial",
    "gated": False,
    "convert": from_transformers,
}

PHIKON = register_hub(
    name="phikon",
    dim=768,
    n_parameters=85_798_656,
    gflop=35.13,
    hub_id="owkin/phikon",
    citation="Filiot et al. (2023), doi:10.1101/2023.07.21.23292757",
    # transformers' ViT has another epsilon in its normalisation than timm's.
    architecture=vit("vit_base_patch16_224", pooling="cls", norm_layer=partial(nn.LayerNorm, eps=1e-12)),
    **_COMMON,
    **IMAGENET,
)

PHIKON_V2 = register_hub(
    name="phikon-v2",
    dim=1024,
    n_parameters=303_350_784,
    gflop=123.11,
    hub_id="owkin/phikon-v2",
    citation="Filiot et al. (2024), arXiv:2409.09173",
    architecture=vit("vit_large_patch16_224", pooling="cls", init_values=1e-5),
    **_COMMON,
    **IMAGENET,
)
