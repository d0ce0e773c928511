"""Bioptimus: H0-mini, H-optimus-0, H-optimus-1."""

from __future__ import annotations

from storm.encoders.vit import register_hub, vit

_NORMALISATION = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_COMMON = {"maker": "Bioptimus", "tile_px": 224, "patch_px": 14, "prefix_tokens": 5, "pooling": "cls"}
_GIANT = vit("vit_giant_patch14_reg4_dinov2", pooling="cls", img_size=224, init_values=1e-5)

#: The paper's tile encoder: a field of 55 µm (a Visium spot) on 224 px.
H0_MINI = register_hub(
    name="h0-mini",
    dim=768,
    field_um=55.0,
    native_um_per_px=0.5,
    n_parameters=85_739_520,
    gflop=47.08,
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    hub_id="bioptimus/H0-mini",
    citation="Filiot et al. (2025), arXiv:2501.16239",
    architecture=vit(
        "vit_base_patch14_reg4_dinov2",
        pooling="cls",
        swiglu=True,
        img_size=224,
        patch_size=14,
        reg_tokens=4,
        init_values=1e-5,
        mlp_ratio=5.33334,
    ),
    **_COMMON,
    **_NORMALISATION,
)

H_OPTIMUS_0 = register_hub(
    name="h-optimus-0",
    dim=1536,
    field_um=112.0,
    native_um_per_px=0.5,
    n_parameters=1_134_774_272,
    gflop=608.35,
    licence="Apache-2.0",
    gated=False,
    hub_id="bioptimus/H-optimus-0",
    citation="Saillard et al. (2024), github.com/bioptimus/releases",
    architecture=_GIANT,
    **_COMMON,
    **_NORMALISATION,
)

H_OPTIMUS_1 = register_hub(
    name="h-optimus-1",
    dim=1536,
    field_um=112.0,
    native_um_per_px=0.5,
    n_parameters=1_134_774_272,
    gflop=608.35,
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    hub_id="bioptimus/H-optimus-1",
    citation="Bioptimus (2025), huggingface.co/bioptimus/H-optimus-1",
    architecture=_GIANT,
    **_COMMON,
    **_NORMALISATION,
)
