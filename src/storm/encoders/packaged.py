"""The tile encoder of the packaged model."""

from __future__ import annotations

from storm.encoders.info import EncoderInfo
from storm.encoders.registry import register
from storm.encoders.stain import StainTexture
from storm.encoders.stain_dense import DenseStain

#: Side of the field, in µm: some ten cells across.
FIELD_UM = 112.0
#: Side of the tile in pixels, for 1 µm per pixel.
TILE_PX = 112


def _build() -> StainTexture:
    return StainTexture(FIELD_UM / TILE_PX)


STAIN_TEXTURE = register(
    EncoderInfo(
        name="stain-texture",
        dim=89,
        tile_px=TILE_PX,
        field_um=FIELD_UM,
        mean=None,
        std=None,
        licence="BSD-3-Clause",
        gated=False,
        build=_build,
        maker="STORM",
        any_size=True,
        native_um_per_px=FIELD_UM / TILE_PX,
        n_parameters=0,
        dense=DenseStain,
        citation="Ruifrok & Johnston (2001), stain separation",
    )
)
