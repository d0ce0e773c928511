"""``storm.tl.predict_expression``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from storm._bridge.counts import gene_names
from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.select import is_spatialdata
from storm._bridge.streamed import check_new_store, stream_table
from storm._bridge.study import open_study
from storm._bridge.workspace import Workspace, write_all
from storm._checks import check_choice, check_genes, check_positive
from storm._inference.device import Compute
from storm._inference.he_features import he_features
from storm._inference.head_trust import gene_columns, unusual_tiles, useful_genes
from storm._inference.neighbourhoods import section_windows
from storm._inference.predicted_genes import empty_table, layer_results, matrix_names, new_table, predicted_blocks
from storm._inference.record import provenance, unknown_rows, warn_nan, warn_species
from storm._inference.tile_cache import model_tiles
from storm._inference.tokens import he_tokens
from storm._keys import EXPRESSION, UNS, predicted_table, unusual
from storm._loading import ExpressionHead, StormModel, load_model
from storm._logging import logger, warn
from storm._progress import over_sections
from storm._types import Field, Precision, Standardise
from storm.data.genes import GeneMatch, Vocabulary, as_symbols, match_genes

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Largest layer that ``to="auto"`` makes, in bytes: a layer has a column for every gene of the table.
_LAYER_BYTES = 2 * 1024**3


def predict_expression(
    data: SpatialData | Sequence[SpatialData],
    genes: str | Sequence[str] | None = None,
    *,
    model: str | StormModel = "storm-mini",
    head: ExpressionHead | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    field_um: float | None = None,
    field: Field = "exact",
    standardise: Standardise | None = None,
    stride_um: float | None = None,
    keep: Literal["useful", "all"] = "useful",
    intervals: bool = False,
    depth: float | None = None,
    to: Literal["auto", "layer", "table"] = "auto",
    out: str | Path | None = None,
    key_added: str = EXPRESSION,
    device: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    precision: Precision = "auto",
    copy: bool = False,
) -> SpatialData | list[SpatialData] | None:
    """Predict expression from H&E alone. Measured counts, where there are any, are not looked at.

    Parameters
    ----------
    data
        A SpatialData with an H&E image. Without a table the tissue is covered with a grid of tiles. Or a list of them.
    genes
        Gene or genes to predict, by symbol or Ensembl id; all of the head's by default.
    model
        See :func:`storm.tl.embed`.
    head
        A head from :func:`storm.tl.fit_expression`; by default the model's own, whose tissue and reliability its card
        states.
    library_key, image_key, table_key, shapes_key, coordinate_system, um_per_px, stride_um
        See :func:`storm.tl.embed`.
    field_um
        Edge of the H&E field around each centre, in µm; by default the one that the head was trained with.
    field
        ``"exact"`` or ``"dense"``, see :func:`storm.tl.embed`.
    standardise
        Statistics by which the H&E features are standardised, see :func:`storm.tl.fit_expression`. By default those
        that the head was trained with; others give a warning. With ``"section"`` the prediction of a spot depends on
        which other spots are in the object, with ``"training"`` on its own surroundings only.
    keep
        ``"useful"``: genes whose predictions were no better than chance when the head was trained (held-out r of 0 or
        below) are left out, and counted in the log; those that are named in ``genes`` are kept with a warning.
        ``"all"``: all of them.
    intervals
        Also write the limits of each spot's interval, as layers ``"<key_added>_lower"`` and ``"…_upper"``.
    depth
        Counts per spot of the measurements that the intervals are for; by default the median of the head's training
        spots. The noise of a measurement depends on its depth, and an H&E image has none.
    to
        ``"layer"``, ``"table"``, or ``"auto"``: a layer if the predicted genes are all genes of the table and the layer
        takes no more than 2 GiB, else a new table. A layer has a column for every gene of the table, and those that
        were not predicted are NaN, which principal components, for one, do not take.
    out
        Path of a zarr store that is made for the new table, which is then not added to ``data``. It is written block by
        block, so that memory does not grow with the number of spots times genes (a million cells × 5,000 genes are 20
        GB). Read it with :func:`anndata.experimental.read_lazy`, or with :func:`anndata.read_zarr` where it fits.
        Without it, a prediction above half a GiB lies in a scratch file (in ``TMPDIR``) as long as the object lives.
    key_added
        Name of the layer, of the provenance, and ending of the new table's name.
    device, batch_size, precision, copy
        See :func:`storm.tl.embed`.

    Returns
    -------
    SpatialData or list of SpatialData or None
        The copy if ``copy``, a list for a list, else ``None``; ``data`` gets either

        - ``layers[key_added]``, float32, shape (n_obs, n_vars): log1p of counts per 10,000, NaN in the columns of genes
          that were not predicted, or
        - a table ``"<table>_<key_added>"`` that annotates the same shapes, with the predicted genes in ``X`` (with
          ``out=`` there instead),

        and in it

        - ``var["<key_added>_r"]`` (``"storm_r"`` by default): each gene's correlation on held-out spots when the head
          was trained, and beside it ``"…_r_min"``, the lowest in a section, ``"…_n_sections"``, ``"…_n_patients"``, and
          ``"…_reliable"``: 1 where it was above 0 in all sections of two patients or more, NaN for one patient,
        - ``var["<key_added>_lo"]`` and ``"…_hi"``: limits of the prediction interval, to be added to the prediction,
        - ``obs["<key_added>_ood_p"]``: how usual a spot's tile is among those of the head's training (0.05 and less for
          a twentieth of the tiles of a section that is like them); many unusual ones are a warning,
        - ``uns["storm"][key_added]``: the provenance, with the unit, the library that the 10,000 counts refer to, and
          the statistics used.

        Rows whose centre lies outside the image are NaN and counted in a warning; genes of another species than the
        head's are a warning that names both.

    Raises
    ------
    ValueError
        If the model has no head, the head belongs to another model, a gene is not one of the head's or given twice, or
        the image, the scale or the table does not fit. ``data`` is then as it was.
    FileExistsError
        If there is something at ``out``. On any error nothing is written there.
    TypeError
        If ``data`` is not a SpatialData.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *predicting Visium ST from H&E*.

    Examples
    --------
    From H&E alone, with the genes that the packaged model learned:

    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.predict_expression(sdata, ["EPCAM", "COL1A1"])
    """
    check_choice(to, ("auto", "layer", "table"), name="to")
    check_choice(keep, ("useful", "all"), name="keep")
    if out is not None and (to == "layer" or copy or (isinstance(data, list | tuple) and len(data) > 1)):
        what = "to='layer'" if to == "layer" else "copy=True" if copy else "a list of objects"
        msg = f"out= takes the table of one object, which {what} does not go with; leave out= or {what} out"
        raise ValueError(msg)
    if depth is not None:
        check_positive(depth, name="depth", unit="counts")
    for one in data if isinstance(data, list | tuple) else [data]:
        if not is_spatialdata(one):
            msg = f"genes are predicted from an H&E image, which {type(one).__name__} cannot hold; give a SpatialData"
            raise TypeError(msg)
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
    )
    if standardise is not None:
        check_choice(standardise, get_args(Standardise), name="standardise")
    wanted = None if genes is None else check_genes(genes)
    loaded = load_model(model)
    head, columns = _head(loaded, head, wanted)
    if (intervals or depth is not None) and head.intervals is None:
        msg = (
            "the head has no prediction intervals (conformal=False, too few held-out spots, or made by version 0.1.0); "
            "train one with storm.tl.fit_expression, or leave intervals= and depth= out"
        )
        raise ValueError(msg)
    if keep == "useful":
        columns = _useful(head, columns, asked=wanted is not None)
    trained_by = head.standardise or loaded.settings["standardise"]
    by = standardise or trained_by
    if by != trained_by:
        msg = (
            f"the head was trained on features that were standardised by {trained_by!r} statistics, and "
            f"standardise={by!r} gives it others; train one with storm.tl.fit_expression(standardise={by!r})"
        )
        warn(msg)
    compute = Compute.of(device, precision=precision, batch_size=batch_size)
    if field_um is None:
        field_um = head.field_um or loaded.tile_encoder.field_um
    check_positive(field_um, name="field_um", unit="µm")
    study = open_study(
        data,
        keys,
        library_key=library_key,
        image_key=image_key,
        image=True,
        field_um=field_um,
        stride_um=stride_um,
        copy=copy,
        keys_added={
            "layers": matrix_names(key_added, intervals=intervals),
            "obs": [unusual(key_added)],
        },
    )
    genes_out = [head.genes[i] for i in columns]
    path = None if out is None else check_new_store(out, store=study.works[0].store)
    places = []
    for work in study.works:
        work.check_new_table(predicted_table(str(work.selection.table_key), key_added))
        places.append(_place(work, head.genes, genes_out, known=loaded.vocabulary, to=to))
    with study.journals(key_added) as journals:
        for section, journal in zip(over_sections(study), journals, strict=True):
            with section.named():
                selection = section.open()
                spots = spots_of(selection, counts=False)
                windows = section_windows(spots)
                tiles = model_tiles(
                    selection.table, spots, loaded, compute, field_um=field_um, field=field, journal=journal
                )
                features = he_features(
                    loaded.network,
                    he_tokens(tiles.values, loaded, by=by),
                    windows,
                    compute,
                    journal=journal,
                    facts={"model": loaded.sha256},
                )
                if features.shape[1] != head.module.linear.in_features:
                    msg = (
                        f"the head reads {head.module.linear.in_features} features, and this version of storm makes "
                        f"{features.shape[1]}; train it again with storm.tl.fit_expression"
                    )
                    raise ValueError(msg)
            warn_nan(features, unknown_rows(spots), name=key_added, section=section.name)
            p, share = unusual_tiles(head, tiles.values, section=section.name)
            facts = provenance(
                loaded,
                spots,
                compute,
                tiles=tiles,
                windows=windows.kind,
                units=head.units,
                n_genes=len(columns),
                standardise=by,
                depth=head.intervals.default_depth if depth is None and head.intervals is not None else depth,
                unusual_tiles=share,
                head={
                    "n_genes": len(head.genes),
                    "reliability": str(head.notes.get("reliability", "not stated")),
                    "measured_on": head.measured_on,
                    **({} if head.intervals is None else head.intervals.promise),
                    "standardise": trained_by,
                    "library": str(head.notes.get("library", "all genes")),
                },
            )
            study.keep(section, features={key_added: features}, ood={key_added: p[:, None]}, uns={key_added: facts})
        trust = gene_columns(head, columns, key_added=key_added, depth=depth)
        offsets = (trust[f"{key_added}_lo"], trust[f"{key_added}_hi"]) if intervals else None
        layers, tables = [], []
        for work, (match, into_layer) in zip(study.works, places, strict=True):
            blocks = predicted_blocks(head, columns, study.kept(work, "features", key_added), offsets=offsets)
            if path is not None:
                _, *limits = matrix_names(key_added, intervals=intervals)
                table = empty_table(study, work, genes_out, trust, key_added=key_added)
                table.uns[UNS] = {key_added: study.facts(work, key_added, table=table)}
                stream_table(path, table, blocks, layers=limits)
                work.add_made()
            elif into_layer:
                result = layer_results(study, work, blocks, match, trust, key_added=key_added, intervals=intervals)
                layers.append((work, result))
            else:
                table = new_table(study, work, blocks, genes_out, trust, key_added=key_added, intervals=intervals)
                tables.append((work, table))
        write_all(layers)
        for work, table in tables:
            work.add_table(predicted_table(str(work.selection.table_key), key_added), table)
    return study.copies(data) if copy else None


def _head(model: StormModel, head: ExpressionHead | None, genes: list[str] | None) -> tuple[ExpressionHead, np.ndarray]:
    """The head, and the positions of the genes among those that it predicts."""
    if head is None:
        head = model.head
        if head is None:
            msg = f"model {model.name!r} has no expression head; train one with storm.tl.fit_expression and give head="
            raise ValueError(msg)
    elif not isinstance(head, ExpressionHead):
        msg = f"head={head!r} is a {type(head).__name__}; give what storm.tl.fit_expression returned, or None"
        raise TypeError(msg)
    elif head.model_sha256 != model.sha256:
        msg = f"the head was trained on another model than {model.name!r}; give model= the one that it was trained on"
        raise ValueError(msg)
    if genes is None:
        return head, np.arange(len(head.genes))
    match = match_genes(
        as_symbols(genes, model.vocabulary), Vocabulary(tuple(as_symbols(head.genes, model.vocabulary)))
    )
    if unknown := [name for name, at in zip(genes, match.index, strict=True) if at < 0]:
        if len(match.missing) < len(unknown):
            msg = f"{unknown[:10]} are other names of genes that are given as well; give each gene once"
            raise ValueError(msg)
        msg = (
            f"{len(unknown)} of {len(genes)} genes are not among the {len(head.genes)} that the head predicts: "
            f"{unknown[:10]}; head.genes lists them, and storm.tl.fit_expression trains a head for others"
        )
        raise ValueError(msg)
    return head, match.index


def _useful(head: ExpressionHead, columns: np.ndarray, *, asked: bool) -> np.ndarray:
    """Leave out what is worse than nothing, unless the user asked for these genes by name."""
    kept, useless = useful_genes(head, columns)
    if not useless:
        return columns
    if asked:
        msg = (
            f"{len(useless)} of {len(columns)} genes were predicted no better than chance on held-out spots: "
            f"{useless[:10]}; var holds their r"
        )
        warn(msg)
        return columns
    if not len(kept):
        msg = (
            f"none of the {len(columns)} genes was predicted better than chance on held-out spots; keep='all' predicts "
            f"them all the same"
        )
        raise ValueError(msg)
    logger.info("%d of %d genes, no better than chance on held-out spots, are left out", len(useless), len(columns))
    return kept


def _place(
    work: Workspace,
    head_genes: Sequence[str],
    genes: list[str],
    *,
    known: Vocabulary,
    to: Literal["auto", "layer", "table"],
) -> tuple[GeneMatch, bool]:
    """Match the table's genes with the predicted ones, and decide whether these go into a layer."""
    table = work.table
    symbols = Vocabulary(tuple(as_symbols(genes, known)))
    names = gene_names(table, symbols)
    warn_species([head_genes, names], what="the head and the table")
    match = match_genes(as_symbols(names, known), symbols)
    n_own = int((match.index >= 0).sum())
    if to == "layer" and n_own < len(genes):
        msg = f"to='layer' needs each gene in the table, which has {n_own} of {len(genes)}; use to='table'"
        raise ValueError(msg)
    small = table.n_obs * table.n_vars * 4 <= _LAYER_BYTES
    return match, to == "layer" or (to == "auto" and n_own == len(genes) == table.n_vars and small)
