"""Sections that an expression head is trained on, or judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.read import spots_of
from storm._bridge.study import Section
from storm._checks import check_key
from storm._inference.device import Compute
from storm._inference.he_features import he_features
from storm._inference.neighbourhoods import section_windows
from storm._inference.tile_cache import model_tiles
from storm._inference.tokens import he_tokens
from storm._loading import StormModel
from storm._types import Field
from storm.data.genes import Vocabulary, as_symbols
from storm.data.windows import Windows
from storm.pretraining.head_sections import HeadSection

if TYPE_CHECKING:
    from anndata import AnnData


def read_head_section(
    section: Section,
    mask: str | np.ndarray | Sequence | None,
    model: StormModel,
    compute: Compute,
    *,
    wanted: list[str] | None,
    field_um: float,
    field: Field,
    by: str,
    mask_name: str = "train",
) -> HeadSection:
    """Read a section that a head is trained on, or judged by: counts, H&E features and tile embeddings.

    Parameters
    ----------
    section
        The section, which needs an image and counts.
    mask
        Spots to train on; see :func:`training_mask`. ``None`` for all.
    model, compute
        The model, and how it is run.
    wanted
        Genes that are asked for by name, whose spelling decides which column of ``var`` holds the names.
    field_um, field
        As :func:`storm.tl.embed`.
    by
        Statistics by which features are standardised.
    mask_name
        Argument that the mask is from, for errors.
    """
    selection = section.open()
    vocabulary = model.vocabulary if wanted is None else Vocabulary(tuple(wanted))
    spots = spots_of(selection, counts=True, vocabulary=vocabulary)
    keep = np.ones(len(spots), bool) if mask is None else training_mask(mask, selection.table, name=mask_name)
    windows = section_windows(spots)
    tiles = model_tiles(selection.table, spots, model, compute, field_um=field_um, field=field)
    counts, names = spots.expression
    return HeadSection(
        features=he_features(model.network, he_tokens(tiles.values, model, by=by), windows, compute),
        counts=counts,
        names=names.tolist(),
        symbols=as_symbols(names, model.vocabulary),
        train=keep,
        centres=spots.centres,
        reach=window_reach(windows),
        tiles=tiles.values,
    )


def window_reach(windows: Windows) -> float:
    """How far a window reaches, in the units of the centres."""
    return float(np.abs(windows.offsets).max() * windows.pitch)


def training_mask(mask: str | np.ndarray | Sequence, table: AnnData, *, name: str = "train") -> np.ndarray:
    """A boolean column of ``obs``, by name, or a mask, as bool of shape (n_obs,).

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it is not boolean, has gaps, or another length.
    """
    values: Any = mask
    if isinstance(mask, str):
        check_key(mask, list(table.obs.columns), name=name, where="obs")
        values = table.obs[mask]
    # pandas' nullable booleans are booleans, unless a value is missing.
    column = pd.Series(np.asarray(values, dtype=object).ravel()).infer_objects()
    shape = np.shape(values)
    if shape != (table.n_obs,) or column.dtype != bool:
        kind = f"{int(column.isna().sum())} missing values" if column.isna().any() else f"dtype {column.dtype}"
        msg = f"{name} has shape {shape} and {kind}; it must be boolean, without gaps, of shape ({table.n_obs},)"
        raise ValueError(msg)
    return column.to_numpy(dtype=bool)
