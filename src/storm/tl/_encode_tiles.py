"""``storm.tl.encode_tiles``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.study import open_study
from storm._checks import check_positive
from storm._inference.device import Compute
from storm._inference.record import unknown_rows, warn_nan
from storm._inference.tile_cache import held_result, input_size, tile_embedding
from storm._keys import tiles_key
from storm._logging import logger
from storm._progress import over_sections
from storm._types import Field, Precision
from storm.encoders import EncoderInfo, load_encoder

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def encode_tiles(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    encoder: str | EncoderInfo,
    *,
    weights: str | Path | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    field_um: float | None = None,
    field: Field = "exact",
    stride_um: float | None = None,
    tile_px: int | Literal["native"] | None = None,
    key_added: str | None = None,
    device: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    precision: Precision = "auto",
    compiled: bool = False,
    channels_last: bool = False,
    recompute: bool = False,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Embed the H&E around each spot, bin, cell or tile with a tile encoder.

    What the key already holds is reused if it was made from the same weights, places, image, field, input size,
    precision and version of the reader. The image is compared by a checksum of all its pixels at the resolution that
    tiles are cut from, or, above 400 million pixels, at a coarser level; the provenance records which
    (``inputs_compared``).

    Parameters
    ----------
    data
        A SpatialData with an H&E image; one without a table is covered with a grid of tiles. Or a list of them.
    encoder
        Name (:func:`storm.encoders.list`), ``"timm:<model>"``, or what :func:`storm.encoders.load_encoder` or
        :func:`storm.encoders.wrap_encoder` returned.
    weights
        File or folder of its weights; by default they are looked for in the hub's cache. Nothing is downloaded.
    library_key
        Column of ``obs`` that names the section of each row, where a table holds several. Neighbourhoods, scales and
        statistics then end with a section. In a SpatialData whose table annotates several elements, each of these is a
        section by itself.
    image_key, table_key, shapes_key
        Elements to use; needed only where there are several. ``shapes_key`` is what the table annotates; of a table
        that annotates several elements it picks one. ``image_key`` may name the image of each section:
        ``{"A_spots": "A_he"}``; by default it is the one that shares a coordinate system with the section and overlaps.
    coordinate_system
        Where image and shapes meet; by default the one in µm, else ``"global"``.
    um_per_px
        µm per pixel of the full-resolution image, if the object does not say it.
    field_um
        Edge of the field around each centre, in µm; the encoder's own by default (55 µm for ``"h0-mini"``).
    field
        ``"exact"``: a tile around each centre. ``"dense"``: one pass over the tissue, of which each centre takes its
        share, for bins and cells that lie closer than a tile is wide. It is several times cheaper (a
        transformer: many times), and with the packaged tile encoder nearly the same; the page *Performance* gives the
        differences.
    stride_um
        Distance between the tiles of an image without a table, in µm; ``field_um`` by default.
    tile_px
        Side of the encoder's input in pixels, onto which the field is resized; ``None`` is the encoder's own;
        ``"native"`` keeps the µm per pixel that it was trained at (112 px for 55 µm and ``"h0-mini"``: a quarter of
        the computation).
    key_added
        Key of the embedding; ``"X_<encoder>"`` by default, characters that SpatialData cannot store replaced by ``_``.
    device
        ``"auto"``, a torch device, or several, ``"cuda:0,cuda:1"``, each of which takes a region of the section.
    batch_size
        Tiles per batch; by default as many as take 5 MB as floats on the CPU (8 of 224 px), and 256 elsewhere.
    precision
        ``"auto"`` (bf16 on a GPU that has it, else fp32), ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    compiled
        Run through :func:`torch.compile`, which takes a minute first.
    channels_last
        Use the memory layout that convolutions are often faster in. With this or ``compiled``, the first batch is run
        both ways, and where the embeddings differ (cosine below 0.999) the plain way is taken, with a warning.
    recompute
        Compute even if the key already holds the same.
    copy
        Return a changed copy (tables copied, images shared) and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; ``data`` gets

        - ``obsm[key_added]``: float32, shape (n_obs, dim), a row of NaN where the centre lies outside the image or
          there is no geometry, counted in a warning,
        - ``uns["storm"][key_added]``: encoder, checksum and licence of its weights, field, µm per pixel, precision,
        - for an image without a table: shapes ``"storm_tiles"`` and a table ``"tiles"`` that holds them.

    Raises
    ------
    FileNotFoundError
        If the weights are not on this machine; the text explains how to get them.
    KeyError
        If an element does not exist.
    TypeError
        If ``encoder`` is neither a name nor a described encoder, or a key is not text.
    ValueError
        If something is missing, ambiguous or contradictory, the encoder does not take ``tile_px``, or its numbers
        overflow at this precision. ``data`` is then as it was.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.encode_tiles(sdata, "stain-texture")
    >>> sdata["table"].obsm["X_stain-texture"].shape
    (150, 89)
    """
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
    )
    compute = Compute.of(device, precision=precision, batch_size=batch_size)
    if not isinstance(encoder, str | EncoderInfo):
        msg = (
            f"encoder={encoder!r} is a {type(encoder).__name__}; give a name (storm.encoders.list() has them), or wrap "
            "your own network with storm.encoders.wrap_encoder"
        )
        raise TypeError(msg)
    if isinstance(encoder, str) or weights is not None or (encoder.sha256 is None and encoder.architecture is not None):
        loaded = load_encoder(encoder, weights=weights)
    else:
        loaded = encoder
    field_um = loaded.field_um if field_um is None else field_um
    check_positive(field_um, name="field_um", unit="µm")
    tile_px = input_size(loaded, tile_px, field_um=field_um)
    key = tiles_key(loaded.name) if key_added is None else key_added

    study = open_study(
        data,
        keys,
        library_key=library_key,
        image_key=image_key,
        image=True,
        field_um=field_um,
        stride_um=stride_um,
        copy=copy,
        keys_added={"obsm": [key]},
    )
    reused = 0
    with study.journals(key) as journals:
        for section, journal in zip(over_sections(study), journals, strict=True):
            with section.named():
                selection = section.open()
                spots = spots_of(selection, counts=False)
                embedding = tile_embedding(
                    spots,
                    loaded,
                    compute,
                    held=None if recompute else held_result(selection.table, key),
                    field_um=field_um,
                    tile_px=tile_px,
                    compiled=compiled,
                    channels_last=channels_last,
                    field=field,
                    journal=journal,
                    stored=True,
                )
            # In memory: the rows may lie in the journal's file, which is about to go.
            values = np.array(embedding.values)
            if not embedding.reused:
                warn_nan(values, unknown_rows(spots), name=key, section=section.name)
            reused += embedding.reused
            study.keep(section, obsm={key: values}, uns={key: embedding.facts})
        if reused == len(study):
            logger.info("obsm[%r] already holds these embeddings; recompute=True computes them again", key)
        else:
            study.write()
    return study.copies(data) if copy else None
