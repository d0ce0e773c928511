"""Microsoft and Providence: Prov-GigaPath (its tile encoder)."""

from __future__ import annotations

from storm.encoders.vit import IMAGENET, register_hub, vit

PROV_GIGAPATH = register_hub(
    name="prov-gigapath",
    maker="Microsoft, Providence",
    dim=1536,
    tile_px=224,
    field_um=112.0,
    native_um_per_px=0.5,
    patch_px=16,
    prefix_tokens=1,
    pooling="cls",
    n_parameters=1_134_953_984,
    gflop=456.19,
    licence="Apache-2.0 with conditions",
    gated=True,
    hub_id="prov-gigapath/prov-gigapath",
    citation="Xu et al. (2024), doi:10.1038/s41586-024-07441-w",
    # timm's name says patch14; the published network has patches of 16.
    architecture=vit(
        "vit_giant_patch14_dinov2",
        pooling="cls",
        img_size=224,
        patch_size=16,
        embed_dim=1536,
        depth=40,
        num_heads=24,
        init_values=1e-5,
        mlp_ratio=5.33334,
    ),
    **IMAGENET,
)
