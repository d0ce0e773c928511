"""``storm.tl.embed``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from storm._bridge.keys import Keys
from storm._inference.record import warn_nan
from storm._inference.study_embedding import embed_sections, open_embedding
from storm._keys import X_STORM
from storm._loading import StormModel, load_model
from storm._types import Batch, Field, Modality, Precision, Readout, WindowKind

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def embed(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    *,
    model: str | StormModel = "storm-mini",
    modality: Modality = "auto",
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    field_um: float | None = None,
    field: Field = "exact",
    stride_um: float | None = None,
    window: WindowKind = "auto",
    radius_um: float | None = None,
    readout: Readout | None = None,
    joint: bool = True,
    batch: Batch = "anchors",
    per_modality: bool = False,
    key_added: str = X_STORM,
    device: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Embed spots, bins, cells or tiles with STORM: H&E, expression and neighbourhood in one vector each.

    Parameters
    ----------
    data
        A SpatialData with an H&E image, a table of raw counts, or both; or an AnnData with raw counts and
        ``obsm["spatial"]`` (expression only). An image without a table is covered with a grid of tiles. A list of them
        is a study of several sections, as is a table with several; see the page *Several sections as one study*.
    model
        Name of a packaged model, folder of a saved one, or a loaded :class:`~storm.StormModel`; see
        :func:`storm.load_model`. Tile embeddings that :func:`encode_tiles` left under the default key of the model's
        tile encoder are used again if they were made from the same.
    modality
        ``"both"``, ``"he"`` (H&E only), ``"st"`` (expression only), or ``"auto"``: what the object has.
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
    layer
        Layer with the raw counts; ``None`` for ``X``.
    field_um
        Edge of the H&E field around each centre, in µm; the model's own by default.
    field
        ``"exact"``: a tile around each centre. ``"dense"``: one pass over the tissue, of which each centre takes its
        share, for bins and cells that lie closer than a tile is wide. It is several times cheaper (a
        transformer: many times), and with the packaged tile encoder nearly the same; the page *Performance* gives the
        differences.
    stride_um
        Distance between the tiles of an image without a table, in µm; ``field_um`` by default.
    window
        ``"lattice"`` (5 × 5 neighbourhood of spots and bins), ``"knn"`` (a cell and its 8 nearest), or ``"auto"``,
        which refuses bins of less than 4 µm: they are to be summed to 8 µm first.
    radius_um
        Reach of a ``"knn"`` window in µm; a neighbour beyond it is missing. Default: five typical distances.
    readout
        ``"adaptive"`` (the section's own ten leading principal components of expression, averaged over the distance at
        which spots predict each other best, and beside them the network's output tokens where its encoder tells more of
        the section than these components do: best for domains on every platform; the ten axes of a section that is
        embedded alone mean something else in another section), ``"section"`` (own components beside output tokens, both
        averaged over the window with σ = 0.7 pitch; the default of version 0.1), ``"window"`` (output and input tokens
        of the window, weighted by the same Gaussian; nothing of the section's own mean is subtracted from expression,
        so that sections embedded one by one may be laid beside each other if they do not differ technically),
        ``"center"`` (output token of the spot itself), ``"reconstruction"`` (what its neighbourhood says of a masked
        spot), or ``None`` for the model's default.
    joint
        Give several sections, of a list or of one table, axes that mean the same in all of them: with the read-out
        ``"adaptive"`` the principal components of expression are those of all sections together, over the genes that
        all measure, and the network takes part in all of them or in none. Each section keeps its own neighbourhoods and
        reach. With other read-outs, for H&E alone, and with ``joint=False``, each is embedded as if it were alone; if
        some sections of a table then have parts that others have not, such as the network's, these are zero there.
    batch
        What is taken for technical between sections that are embedded jointly, and removed. ``"anchors"``: one shift
        for each section, by which spots that are mutual nearest neighbours between sections agree; right also where
        sections hold different tissue. ``"center"``: the mean of each section, which is right where all hold the same.
        ``"harmony"``: Harmony on the components, the mean for the network's part; it needs
        ``pip install 'storm-spatial[harmony]'``. ``"none"``: nothing.
    per_modality
        Also write the H&E and the expression part by themselves, as ``obsm["<key_added>_he"]`` and ``"…_st"``.
    key_added
        Key of the embedding.
    device
        ``"auto"``, a torch device, or several, ``"cuda:0,cuda:1"``: each takes a region of the section through the tile
        encoder, the first does the rest.
    batch_size
        Tiles and windows per batch; by default 512 windows, and 256 tiles (8 of 224 px on the CPU).
    precision
        ``"auto"`` (bf16 on a GPU that has it, else fp32), ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    seed
        Random seed for the masks of ``readout="reconstruction"`` and for ``batch="harmony"``.
    copy
        Return a changed copy (tables copied, images shared) and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; ``data`` gets

        - ``obsm[key_added]``: float32, shape (n_obs, d); a row of NaN where nothing could be computed (centre outside
          the image, no counts, no geometry), counted in a warning,
        - ``uns["storm"][key_added]``: model, checksum, parameters, µm per pixel and its source, matched genes, and what
          the adaptive read-out chose (``reach``, ``gate``, ``st_tokens``); of several sections in one table what they
          share, and under ``"sections"`` what they do not,
        - for an image without a table: shapes ``"storm_tiles"`` and a table ``"tiles"`` that holds them.

    Raises
    ------
    KeyError
        If an element or layer does not exist.
    ImportError
        If ``batch="harmony"`` and harmony-pytorch is not installed.
    ValueError
        If something is missing, ambiguous or contradictory: no scale, no overlap of spots and image, counts that are no
        counts, too few genes of the model (a warning with the adaptive read-out). ``data`` is then as it was.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *STORM model design*, *spatial domain discovery*.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.embed(sdata)
    >>> sdata["table"].obsm["X_storm"].shape
    (150, 355)

    Of counts alone, and of several sections at once, in axes that they share:

    >>> storm.tl.embed(sdata, modality="st", key_added="X_storm_st")
    >>> other = storm.datasets.toy("visium", n=150, seed=1)
    >>> storm.tl.embed([sdata, other], modality="st")
    """
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    study, plan = open_embedding(
        data,
        keys,
        load_model(model),
        modality=modality,
        library_key=library_key,
        image_key=image_key,
        field_um=field_um,
        field=field,
        stride_um=stride_um,
        window=window,
        radius_um=radius_um,
        readout=readout,
        joint=joint,
        batch=batch,
        per_modality=per_modality,
        key_added=key_added,
        device=device,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
        copy=copy,
    )
    with study.journals(key_added) as journals:
        for section, result in embed_sections(study, plan, journals):
            warn_nan(result.vector, result.unknown, name=key_added, section=section.name)
            obsm = result.obsm(key_added, per_modality=per_modality)
            study.keep(section, obsm=obsm, uns={key_added: result.facts}, layouts=result.layouts(key_added))
        study.write()
    return study.copies(data) if copy else None
