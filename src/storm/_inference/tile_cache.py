"""Tile embeddings of a section: computed, or taken from where an earlier call left them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from storm import __version__
from storm._bridge.read import held_result
from storm._checks import check_choice, check_positive
from storm._inference.dense import encode_dense
from storm._inference.device import resolve_precision
from storm._inference.tiles import encode_tiles
from storm._keys import tiles_key
from storm._loading import StormModel
from storm._logging import logger
from storm.data.journal import Journal
from storm.data.patches import READER_VERSION
from storm.data.spots import Spots
from storm.encoders import EncoderInfo

#: Tiles read to tell one image from another.
_PROBES = 16
#: What must be the same for an embedding to be used again; ``inputs`` stands for the centres and the image.
_CACHE_KEY = ("encoder", "sha256", "field", "field_um", "tile_px", "um_per_px", "precision", "reader_version", "inputs")
#: Fields, and how often they overlap, above which one pass over the tissue is advised.
_MANY, _OVERLAP = 20_000, 20
#: What older provenance does not say, because there was no choice.
_BEFORE = {"field": "exact"}


@dataclass(frozen=True, kw_only=True)
class TileEmbedding:
    """Tile embeddings and where they come from.

    Attributes
    ----------
    values
        float32, shape (n, dim); NaN where the centre lies outside the image.
    facts
        Their provenance.
    reused
        Whether an earlier call computed them.
    """

    values: np.ndarray
    facts: dict[str, Any]
    reused: bool


def tile_embedding(
    spots: Spots,
    encoder: EncoderInfo,
    *,
    held: tuple[np.ndarray, dict[str, Any]] | None,
    field_um: float,
    devices: Sequence[torch.device],
    precision: str,
    field: str = "exact",
    any_precision: bool = False,
    tile_px: int | None = None,
    batch_size: int | None = None,
    journal: Journal | None = None,
    compiled: bool = False,
    channels_last: bool = False,
) -> TileEmbedding:
    """Embed the tiles, or take what is held if it was made from the same.

    Parameters
    ----------
    spots
        With a patch reader.
    encoder
        Tile encoder.
    held
        An embedding of these spots with its provenance, or ``None``.
    field_um
        Edge of the field around each centre, in µm.
    devices, precision
        Where and how to run.
    field
        ``"exact"`` or ``"dense"``.
    any_precision
        Take what is held whatever precision it has: they are equal to within a cosine of 0.999.
    tile_px
        Input size, the encoder's own by default.
    batch_size
        Tiles per batch; by default 32 for a transformer on the CPU and 256 else.
    journal
        Where finished batches are kept for the next run, if this one is interrupted.
    compiled, channels_last
        Ways to run faster, taken where the first batch shows that they say the same.

    Raises
    ------
    ValueError
        If the encoder's numbers are not finite, or not of the shape that its description says.
    """
    check_choice(field, ("exact", "dense"), name="field")
    tile_px = encoder.tile_px if tile_px is None else int(tile_px)
    if batch_size is None:
        batch_size = 32 if devices[0].type == "cpu" and encoder.patch_px else 256
    facts = {
        "storm_version": __version__,
        "encoder": encoder.name,
        # An encoder without weights is the package's own code.
        "sha256": encoder.sha256 or f"storm {__version__}",
        "licence": encoder.licence,
        "field_um": float(field_um),
        "field": field,
        "tile_px": tile_px,
        "um_per_px": float(spots.patches.um_per_px),
        "um_source": spots.scale.source,
        "reader_version": READER_VERSION,
        "device": ",".join(map(str, devices)),
        "precision": precision,
        "batch_size": batch_size,
        "inputs": fingerprint(spots, field_um=field_um, tile_px=tile_px),
    }
    if held is not None:
        values, before = held
        compared = [key for key in _CACHE_KEY if not (any_precision and key == "precision")]
        other = [key for key in compared if not bool(before.get(key, _BEFORE.get(key)) == facts[key])]
        if not other:
            return TileEmbedding(values=np.asarray(values, dtype=np.float32), facts=before, reused=True)
        if before.get("encoder") == encoder.name:
            logger.warning("the tile embeddings that are there are not used: made with another %s", ", ".join(other))
    how = {"precision": precision, "batch_size": batch_size, "compiled": compiled, "channels_last": channels_last}
    same = facts | how | {"device": [device.type for device in devices], "n_threads": torch.get_num_threads()}
    rows = (journal or Journal()).rows("tiles", (len(spots), encoder.dim), facts=same)
    size = {"field_um": field_um, "tile_px": tile_px, "precision": precision, "batch_size": batch_size}
    if field == "exact":
        _hint(spots, encoder, field_um=field_um)
        fast = {"compiled": compiled, "channels_last": channels_last}
        values = encode_tiles(spots, encoder, devices=devices, rows=rows, **size, **fast)
    else:
        if not rows.done.all():  # centres share what is computed, so that none is finished before all are
            rows.write(np.arange(len(spots)), encode_dense(spots, encoder, device=devices[0], **size))
        values = rows.finish()
    _check_finite(values, spots, name=encoder.name, precision=precision)
    return TileEmbedding(values=values, facts=facts, reused=False)


def _hint(spots: Spots, encoder: EncoderInfo, *, field_um: float) -> None:
    """Tell those who wait for hours that the same is to be had in minutes."""
    inside = spots.centres[spots.patches.inside(spots.centres)]
    if encoder.dense is None or len(inside) < _MANY:
        return
    # Each centre counts for the area of a field, against that of the squares of half a field that hold centres.
    squares = len(np.unique(np.floor(inside / (field_um / 2)), axis=0)) / 4
    if len(inside) > _OVERLAP * squares:
        logger.warning(
            "%d fields of %g µm overlap %.0f times: field='dense' gives nearly the same, many times faster",
            len(inside), field_um, len(inside) / squares,
        )  # fmt: skip


def model_tiles(
    data: Any,
    table_key: str | None,
    spots: Spots,
    model: StormModel,
    *,
    field_um: float,
    devices: Sequence[torch.device],
    precision: str,
    field: str,
    batch_size: int | None,
    journal: Journal | None = None,
) -> TileEmbedding:
    """The tile embeddings that a model reads; those that :func:`storm.tl.encode_tiles` left are used again.

    Parameters
    ----------
    data, table_key
        Where they may lie, under the default key of the model's tile encoder.
    spots
        With a patch reader.
    model
        The model.
    field_um, devices, field, batch_size, journal
        See :func:`tile_embedding`.
    precision
        ``"auto"`` takes what lies there at any precision.
    """
    held = held_result(data, table_key, tiles_key(model.tile_encoder.name))
    return tile_embedding(
        spots, model.tile_encoder, held=held, field_um=field_um, tile_px=model.tile_px, devices=devices,
        precision=resolve_precision(precision, devices[0]), any_precision=precision == "auto", batch_size=batch_size,
        field=field, journal=journal,
    )  # fmt: skip


def tile_facts(tiles: TileEmbedding) -> dict[str, Any]:
    """What the provenance of a result says of the tile embeddings below it."""
    said = {"encoder": "tile_encoder", "sha256": "tile_sha256", "precision": "tile_precision"}
    record = {name: tiles.facts[key] for key, name in said.items()}
    return record | {key: tiles.facts[key] for key in ("field", "field_um", "tile_px")} | {"tiles_reused": tiles.reused}


def input_size(encoder: EncoderInfo, tile_px: int | str | None, *, field_um: float) -> int:
    """Side of the encoder's input in pixels.

    Raises
    ------
    ValueError
        If the encoder does not take it.
    """
    if tile_px is None:
        return encoder.tile_px
    if tile_px == "native":
        return encoder.native_px(field_um)
    if isinstance(tile_px, (bool, str)) or tile_px != int(tile_px):
        msg = f"tile_px={tile_px!r} is neither a whole number of pixels nor 'native'"
        raise ValueError(msg)
    check_positive(tile_px, name="tile_px", unit="px")
    if tile_px != encoder.tile_px and not encoder.any_size:
        msg = f"tile encoder {encoder.name!r} takes {encoder.tile_px} px only, not tile_px={tile_px}"
        raise ValueError(msg)
    step = encoder.patch_px or 1
    if tile_px % step:
        near = max(step, step * round(tile_px / step))
        msg = (
            f"tile encoder {encoder.name!r} takes multiples of {step} px, not tile_px={tile_px}; the nearest is {near}"
        )
        raise ValueError(msg)
    return int(tile_px)


def fingerprint(spots: Spots, *, field_um: float, tile_px: int) -> str:
    """Checksum of all centres and of a few tiles, read as the encoder would get them."""
    digest = hashlib.sha256(np.ascontiguousarray(spots.centres, dtype="<f8").tobytes())
    inside = np.flatnonzero(spots.patches.inside(spots.centres))
    if len(inside):
        rows = inside[np.unique(np.linspace(0, len(inside) - 1, _PROBES).astype(int))]
        digest.update(spots.patches.read(spots.centres[rows], field_um=field_um, out_px=tile_px).tobytes())
    return digest.hexdigest()


def _check_finite(values: np.ndarray, spots: Spots, *, name: str, precision: str) -> None:
    wrong = ~np.isfinite(values).all(axis=1) & spots.patches.inside(spots.centres)
    if wrong.any():
        other = "bf16 or fp32" if precision == "fp16" else "another encoder or image"
        msg = (
            f"tile encoder {name!r} gave numbers that are not finite for {wrong.sum()} tiles at precision="
            f"{precision!r}; use {other}"
        )
        raise ValueError(msg)
