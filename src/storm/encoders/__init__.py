"""Tile encoders: networks from RGB tiles to vectors, each with its own normalisation, scale and licence."""

# Importing a maker's file registers its encoders, so that every name is known whichever module is imported first.
from storm.encoders import bioptimus, histai, mahmoodlab, microsoft, owkin, paige, timm_models
from storm.encoders.info import EncoderInfo, LoadedEncoder
from storm.encoders.loading import load_encoder, with_weights
from storm.encoders.packaged import STAIN_TEXTURE
from storm.encoders.registry import encoder_table as list  # noqa: A004  the table, as storm.encoders.list()
from storm.encoders.registry import get_encoder, list_encoders, register, register_family
from storm.encoders.stain import StainTexture
from storm.encoders.user import wrap_encoder

__all__ = [
    "STAIN_TEXTURE",
    "EncoderInfo",
    "LoadedEncoder",
    "StainTexture",
    "bioptimus",
    "get_encoder",
    "histai",
    "list",
    "list_encoders",
    "load_encoder",
    "mahmoodlab",
    "microsoft",
    "owkin",
    "paige",
    "register",
    "register_family",
    "timm_models",
    "with_weights",
    "wrap_encoder",
]
