"""Spot tokens: the embedding of each spot by itself, by the tile encoder and the expression encoder."""

from __future__ import annotations

import numpy as np

from storm._loading import StormModel
from storm.data.genes import GeneMatch
from storm.data.normalise import CLIP, standardise
from storm.data.spots import Spots


def he_tokens(raw: np.ndarray, model: StormModel, *, by: str | None = None) -> np.ndarray:
    """Standardise tile embeddings.

    Parameters
    ----------
    raw
        Tile embeddings, shape (n, he_dim); NaN rows have none.
    model
        The model.
    by
        Statistics to use, those of the ``"section"`` or of the ``"training"`` sections; by default the model's choice.

    Returns
    -------
    ndarray
        Float32, shape (n, he_dim).
    """
    within = (model.settings["standardise"] if by is None else by) == "section"
    return standardise(raw, model.statistic("he_mean"), model.statistic("he_std"), within=within, clip=CLIP)


def st_embeddings(spots: Spots, model: StormModel) -> np.ndarray:
    """Expression embeddings of single spots, shape (n, st_dim); NaN for spots without counts or place.

    Raises
    ------
    ValueError
        If the table shares too few genes with the expression encoder, or that reads distances and none are known.
    """
    encoder = model.expression
    if encoder.needs_centres and not spots.um_known:
        msg = (
            f"expression encoder {encoder.name!r} reads distances in µm, and no scale of the coordinates is known; "
            "give um_per_px, µm per unit of theirs"
        )
        raise ValueError(msg)
    counts, genes = spots.expression
    raw = encoder.encode(counts, genes.tolist(), centres=spots.centres)
    # Rows without a place, such as those of another region, are not of this section and take no part in its statistics.
    return np.where(spots.placed[:, None], raw, np.nan)


def st_tokens(spots: Spots, model: StormModel, *, by: str | None = None) -> tuple[np.ndarray, GeneMatch]:
    """Standardised expression embeddings, shape (n, st_dim), NaN for spots without counts; and how the genes matched.

    Parameters
    ----------
    spots
        The section.
    model
        The model.
    by
        As in :func:`he_tokens`.

    Raises
    ------
    ValueError
        As :func:`st_embeddings`.
    """
    raw = st_embeddings(spots, model)
    within = (model.settings["standardise"] if by is None else by) == "section"
    scaled = standardise(raw, model.statistic("st_mean"), model.statistic("st_std"), within=within, isotropic=True)
    return scaled, model.expression.match(spots.expression[1].tolist())
