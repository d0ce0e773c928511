"""A section of a SpatialData packed for pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.selection import Selection, select
from storm._inference.device import Compute
from storm._inference.neighbourhoods import section_windows
from storm._inference.tile_cache import held_result, input_size, tile_embedding
from storm._keys import tiles_key
from storm._logging import logger
from storm.data.spots import Spots
from storm.encoders import EncoderInfo
from storm.pretraining.config import PretrainConfig
from storm.pretraining.shards import PatchStream, Shard, open_shard, write_shard

if TYPE_CHECKING:
    from spatialdata import SpatialData


def packed_section(folder: Path, *, name: str, config: PretrainConfig, tiles: EncoderInfo | None) -> Shard | None:
    """The section's shard, if there is one; it must have been packed as this run wants it.

    Parameters
    ----------
    folder
        Folder of the shard.
    name
        Name of the section.
    config
        The run.
    tiles
        Its tile encoder, or ``None`` for expression only.

    Raises
    ------
    ValueError
        If it was packed with other settings, or is damaged.
    """
    if not folder.is_dir():
        return None
    shard = open_shard(folder)
    wanted, stored = _settings(config, tiles), shard.facts.get("settings", {})
    if not config.he.train_tiles:
        wanted.pop("pixels", None)  # a shard may hold more than this run reads
    other = sorted(key for key in wanted if stored.get(key) != wanted[key])
    if other:
        listed = ", ".join(f"{key}: {stored.get(key)!r} stored, {wanted[key]!r} here" for key in other)
        msg = f"section {name!r} was packed with other settings ({listed}); give another folder of shards, or remove it"
        raise ValueError(msg)
    return shard


def pack_section(
    sdata: SpatialData, folder: Path, *, name: str, config: PretrainConfig, tiles: EncoderInfo | None
) -> Shard:
    """Read a section, embed its tiles, and write its shard.

    Tile embeddings that :func:`storm.tl.encode_tiles` left in it are taken if they were made from the same.

    Parameters
    ----------
    sdata
        The section.
    folder
        Folder of the shard.
    name
        Name of the section.
    config
        The run.
    tiles
        Its tile encoder, or ``None`` for expression only.

    Returns
    -------
    Shard

    Raises
    ------
    KeyError, ValueError
        As :func:`storm.tl.embed`; the text says what is missing or ambiguous.
    """
    keys = Keys(
        image_key=config.data.image_key,
        table_key=config.data.table_key,
        shapes_key=config.data.shapes_key,
        coordinate_system=config.data.coordinate_system,
        um_per_px=config.data.um_per_px,
        layer=config.data.layer,
    )
    selection = select(sdata, keys, image=False if tiles is None else "auto")
    spots = spots_of(selection)
    windows = section_windows(spots, size=config.data.window or None, radius_um=config.data.radius_um)
    he = patches = None
    if tiles is not None and spots.patches is not None:
        he = _embedded(selection, spots, config, tiles)
        if config.he.train_tiles:
            patches = _pixels(spots, config, tiles)
    facts: dict[str, Any] = {"settings": _settings(config, tiles), "um_known": spots.um_known}
    if spots.scale is not None:
        facts |= {"um_per_px": spots.scale.um_per_px, "um_source": spots.scale.source}
    shard = write_shard(
        folder, name=name, centres=spots.centres, windows=windows, counts=spots.counts, genes=spots.genes, he=he,
        patches=patches, facts=facts,
    )  # fmt: skip
    tissue = "without H&E" if he is None else f"{int(np.isfinite(he).all(axis=1).sum())} with H&E"
    logger.info("packed %s: %d spots, %d genes, %s", name, len(shard), len(shard.genes), tissue)
    return shard


def _embedded(selection: Selection, spots: Spots, config: PretrainConfig, tiles: EncoderInfo) -> np.ndarray:
    field_um = config.he.field_um or tiles.field_um
    return tile_embedding(
        spots,
        tiles,
        Compute.of("auto"),
        held=held_result(selection.table, tiles_key(tiles.name)),
        field_um=field_um,
        tile_px=input_size(tiles, config.he.tile_px, field_um=field_um),
    ).values


def _pixels(spots: Spots, config: PretrainConfig, tiles: EncoderInfo) -> PatchStream:
    field_um = config.he.field_um or tiles.field_um
    px = input_size(tiles, config.he.tile_px, field_um=field_um)
    return PatchStream(px, spots.reader.iter_patches(spots.centres, field_um=field_um, out_px=px))


def _settings(config: PretrainConfig, tiles: EncoderInfo | None) -> dict[str, Any]:
    """What decides about a shard, beside the section itself."""
    keys = ("image_key", "table_key", "shapes_key", "coordinate_system", "um_per_px", "layer", "window", "radius_um")
    settings = {key: getattr(config.data, key) for key in keys}
    if tiles is None:
        return settings | {"tile_encoder": None}
    return settings | {
        "tile_encoder": tiles.name,
        "tile_sha256": tiles.sha256,
        "field_um": config.he.field_um or tiles.field_um,
        "tile_px": config.he.tile_px or tiles.tile_px,
        "pixels": config.he.train_tiles,
    }
