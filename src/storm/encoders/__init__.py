"""Tile encoders: networks from RGB tiles to vectors, each with its own normalisation, scale and licence."""

# Importing a maker's file registers its encoders, so that every name is known however this room is entered.
from storm.encoders.packaged import STAIN_TEXTURE
from storm.encoders.registry import EncoderInfo, get_encoder, list_encoders, register
from storm.encoders.stain import StainTexture

__all__ = ["STAIN_TEXTURE", "EncoderInfo", "StainTexture", "get_encoder", "list_encoders", "register"]
