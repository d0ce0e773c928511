"""Tile embeddings of a section: computed, or taken from where an earlier call left them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from storm import __version__
from storm._bridge.select import records_of
from storm._checks import check_choice, check_whole
from storm._inference.dense import encode_dense
from storm._inference.device import Compute
from storm._inference.tiles import encode_tiles
from storm._keys import tiles_key
from storm._loading import StormModel
from storm._logging import logger
from storm._types import Field
from storm.data.enlarged import warn_if_enlarged
from storm.data.fingerprint import image_checksum, summing
from storm.data.journal import Journal
from storm.data.patches import READER_VERSION
from storm.data.spots import Spots
from storm.encoders import EncoderInfo

if TYPE_CHECKING:
    from anndata import AnnData

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

    def record(self) -> dict[str, Any]:
        """The part of their provenance that is repeated in the provenance of a result made from them."""
        return {
            "tile_encoder": self.facts["encoder"],
            "tile_sha256": self.facts["sha256"],
            "tile_precision": self.facts["precision"],
            "field": self.facts["field"],
            "field_um": self.facts["field_um"],
            "tile_px": self.facts["tile_px"],
            "tiles_reused": self.reused,
        }


def tile_embedding(
    spots: Spots,
    encoder: EncoderInfo,
    compute: Compute,
    *,
    held: tuple[np.ndarray, dict[str, Any]] | None,
    field_um: float,
    field: Field = "exact",
    tile_px: int | None = None,
    journal: Journal | None = None,
    compiled: bool = False,
    channels_last: bool = False,
    stored: bool = False,
) -> TileEmbedding:
    """Embed the tiles, or take what is held if it was made from the same.

    Parameters
    ----------
    spots
        With a patch reader.
    encoder
        Tile encoder.
    compute
        How to run. Where the precision was left open, stored embeddings of any precision are reused: they are equal to
        within a cosine of 0.999.
    held
        An embedding of these spots with its provenance, or ``None``.
    field_um
        Edge of the field around each centre, in µm.
    field
        ``"exact"`` or ``"dense"``.
    tile_px
        Edge of the encoder's input in pixels; its own by default.
    journal
        Where finished batches are kept for the next run, if this one is interrupted.
    compiled, channels_last
        Ways to run faster, used only if the results of the first batch match.
    stored
        Whether the caller stores the embeddings, whose provenance then has to identify the image.

    Raises
    ------
    ValueError
        If the encoder's output is not finite, or does not have the shape of its description.
    """
    check_choice(field, get_args(Field), name="field")
    spots.reader.check_field(field_um)
    tile_px = encoder.tile_px if tile_px is None else int(tile_px)
    batch_size = compute.tile_batch(tile_px)
    facts = {
        "storm_version": __version__,
        "encoder": encoder.name,
        # An encoder without weights is the package's own code.
        "sha256": encoder.sha256 or f"storm {__version__}",
        "licence": encoder.licence,
        "field_um": float(field_um),
        "field": field,
        "tile_px": tile_px,
        "um_per_px": float(spots.reader.um_per_px),
        "um_source": "" if spots.scale is None else spots.scale.source,
        "reader_version": READER_VERSION,
        "device": ",".join(map(str, compute.devices)),
        "precision": compute.precision,
        "batch_size": batch_size,
    }
    journal = journal or Journal()
    if held is not None or journal.folder is not None:  # it takes a pass over the image
        facts |= inputs_record(spots, field_um=field_um, tile_px=tile_px)
    elif stored:  # nothing is compared with it: taken from the pixels as they are read
        spots = replace(spots, patches=summing(spots.reader, field_um=field_um, out_px=tile_px))
    if held is not None:
        values, before = held
        compared = [key for key in _CACHE_KEY if not (compute.any_precision and key == "precision")]
        other = [key for key in compared if not bool(before.get(key, _BEFORE.get(key)) == facts[key])]
        if not other:
            logger.info("stored tile embeddings are used: the places and %s are the same", facts["inputs_compared"])
            return TileEmbedding(values=np.asarray(values, dtype=np.float32), facts=before, reused=True)
        if before.get("encoder") == encoder.name:
            if other == ["inputs"] and "inputs_compared" not in before:
                logger.warning(
                    "the stored tile embeddings are not used: an older version of STORM recorded only sixteen tiles of "
                    "the image they were made from, which does not show whether it is still the same"
                )
            else:
                logger.warning("the stored tile embeddings are not used: made with another %s", ", ".join(other))
    warn_if_enlarged(spots.reader, field_um=field_um, out_px=tile_px)
    same = facts | {
        "compiled": compiled,
        "channels_last": channels_last,
        "device": [device.type for device in compute.devices],
        "n_threads": compute.threads,
    }
    rows = journal.rows("tiles", (len(spots), encoder.dim), facts=same)
    if field == "exact":
        _hint(spots, encoder, field_um=field_um)
        values = encode_tiles(
            spots,
            encoder,
            compute,
            field_um=field_um,
            tile_px=tile_px,
            compiled=compiled,
            channels_last=channels_last,
            rows=rows,
        )
    else:
        if not rows.done.all():  # centres share what is computed, so that none is finished before all are
            values = encode_dense(spots, encoder, compute, field_um=field_um, tile_px=tile_px)
            rows.write(np.arange(len(spots)), values)
        values = rows.finish()
    _check_finite(values, spots, name=encoder.name, precision=compute.precision)
    if stored and "inputs" not in facts:
        facts |= inputs_record(spots, field_um=field_um, tile_px=tile_px)
    return TileEmbedding(values=values, facts=facts, reused=False)


def _hint(spots: Spots, encoder: EncoderInfo, *, field_um: float) -> None:
    """Tell those who wait for hours that the same is to be had in minutes."""
    inside = spots.centres[spots.reader.inside(spots.centres)]
    if encoder.dense is None or len(inside) < _MANY:
        return
    # Each centre counts for the area of a field, against that of the squares of half a field that hold centres.
    squares = len(np.unique(np.floor(inside / (field_um / 2)), axis=0)) / 4
    if len(inside) > _OVERLAP * squares:
        logger.warning(
            "%d fields of %g µm overlap %.0f times: field='dense' gives nearly the same, several times faster",
            len(inside), field_um, len(inside) / squares,
        )  # fmt: skip


def model_tiles(
    table: AnnData | None,
    spots: Spots,
    model: StormModel,
    compute: Compute,
    *,
    field_um: float,
    field: Field,
    journal: Journal | None = None,
) -> TileEmbedding:
    """The tile embeddings that a model reads; those that :func:`storm.tl.encode_tiles` stored are reused.

    Parameters
    ----------
    table
        Table that may hold them, under the default key of the model's tile encoder.
    spots
        With a patch reader.
    model
        The model.
    compute, field_um, field, journal
        See :func:`tile_embedding`.

    Returns
    -------
    TileEmbedding
    """
    return tile_embedding(
        spots,
        model.tile_encoder,
        compute,
        held=held_result(table, tiles_key(model.tile_encoder.name)),
        field_um=field_um,
        tile_px=model.tile_px,
        field=field,
        journal=journal,
    )


def held_result(table: AnnData | None, key: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What an earlier call stored under ``obsm[key]``, with its provenance; ``None`` without either of them."""
    if table is None or key not in table.obsm:
        return None
    facts = records_of(table).get(key)
    return (table.obsm[key], dict(facts)) if isinstance(facts, Mapping) else None


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
    if isinstance(tile_px, str):
        msg = f"tile_px={tile_px!r} is neither a whole number of pixels nor 'native'"
        raise ValueError(msg)
    tile_px = check_whole(tile_px, name="tile_px")
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
    return tile_px


def inputs_record(spots: Spots, *, field_um: float, tile_px: int) -> dict[str, str]:
    """Identify all centres and the image; see :func:`storm.data.fingerprint.image_checksum`.

    Parameters
    ----------
    spots
        With a patch reader.
    field_um
        Edge of the field around each centre, in µm.
    tile_px
        Edge of the encoder's input, in pixels.

    Returns
    -------
    dict
        ``inputs``, a checksum, and ``inputs_compared``, which pixels of the image it was taken of.
    """
    image = image_checksum(spots.reader, field_um=field_um, out_px=tile_px)
    digest = hashlib.sha256(np.ascontiguousarray(spots.centres, dtype="<f8").tobytes() + image.value.encode())
    return {"inputs": digest.hexdigest(), "inputs_compared": image.compared}


def _check_finite(values: np.ndarray, spots: Spots, *, name: str, precision: str) -> None:
    wrong = ~np.isfinite(values).all(axis=1) & spots.reader.inside(spots.centres)
    if wrong.any():
        other = "bf16 or fp32" if precision == "fp16" else "another encoder or image"
        msg = (
            f"tile encoder {name!r} gave numbers that are not finite for {wrong.sum()} tiles at precision="
            f"{precision!r}; use {other}"
        )
        raise ValueError(msg)
