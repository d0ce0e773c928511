"""The ``"adaptive"`` read-out: a section's own expression at its own reach, and whether the encoder adds to it.

Nothing here knows a platform, a panel or a label. The width of the smoothing and the use of the network are both
decided by how well spots are predicted by the spots around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from storm._inference.tokens import st_tokens
from storm._loading import StormModel
from storm.data.components import finite_rows, principal_components
from storm.data.expression_axes import fit_axes
from storm.data.genes import GeneMatch, TooFewGenesError
from storm.data.reach import Reach, find_reach, gaussian_mean
from storm.data.spots import Spots
from storm.data.windows import Windows

#: Components of the smoothed scores.
N_OWN = 10


@dataclass(frozen=True, kw_only=True)
class OwnExpression:
    """What varies within a section by itself, at the reach over which it is alike.

    Attributes
    ----------
    scores
        Principal components of single spots, float32, shape (n, p); NaN without counts or place.
    reach
        How well they are predicted by the spots around them, and the width at which best.
    part
        Their Gaussian mean at this reach, its ten leading components, float32, shape (n, ≤ 10), with a mean square of 1
        per row; NaN where nothing is known within reach.
    """

    scores: np.ndarray
    reach: Reach
    part: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Whether the network's tokens of expression stand beside the section's own part.

    Attributes
    ----------
    tokens
        Tokens of single spots, shape (n, d); ``None`` if they are left out.
    match
        How the table's genes match the encoder's.
    reach
        How well the encoder's embeddings are predicted by those around them; ``None`` if that was not measured.
    ratio
        Largest R² of the encoder's embeddings over the largest R² of the section's own scores; ``None`` where one of
        them is not known, or the latter not positive.
    reason
        Why the tokens are used or left out.
    """

    tokens: np.ndarray | None
    match: GeneMatch
    reach: Reach | None = None
    ratio: float | None = None
    reason: str


def own_expression(spots: Spots, windows: Windows) -> OwnExpression:
    """Principal components of a section's expression, averaged over the section's own reach.

    The 30 leading components of the 300 most variable genes, of log1p-normalised counts whose target is the section's
    median; their Gaussian mean at the width that predicts spots from the others best
    (:func:`~storm.data.reach.find_reach`); ten components of that. They keep their lengths.

    Parameters
    ----------
    spots
        The section, with counts.
    windows
        Its windows, which tell the pitch.
    """
    counts, _ = spots.expression
    scores = fit_axes([(counts, windows.rows())]).scores(counts)
    scores[~spots.placed] = np.nan
    reach = find_reach(scores, spots.centres, pitch=windows.pitch)
    smooth = gaussian_mean(scores, spots.centres, sigma=reach.sigma * windows.pitch)
    known = finite_rows(smooth)
    part = np.full((len(spots), min(N_OWN, smooth.shape[1])), np.nan, dtype=np.float32)
    if known.any():
        own = finite_rows(scores)
        leading, _ = principal_components(smooth, known, part.shape[1], fit=own)
        size = np.sqrt(np.square(leading[own[known]]).sum(axis=1).mean())
        part[known] = leading / np.float32(max(size, 1e-8))
    return OwnExpression(scores=scores, reach=reach, part=part)


def gate(own: Reach, spots: Spots, windows: Windows, model: StormModel) -> Gate:
    """Decide whether a model's tokens of expression tell more of a section's layout than the section's own components.

    An encoder that is at home in a tissue and a panel gives embeddings of single spots in which neighbours resemble
    each other more than in the section's own components: it has averaged noise away. Where it knows few of the genes,
    or another tissue, they resemble each other less.

    Parameters
    ----------
    own
        How well the section's own scores are predicted by those around them.
    spots, windows
        The section.
    model
        The model, whose expression encoder is asked.

    Raises
    ------
    ValueError
        If the encoder reads distances and none are known.
    """
    encoder = model.expression
    _, genes = spots.expression
    try:
        tokens, match = st_tokens(spots, model)
    except TooFewGenesError as error:
        return Gate(tokens=None, match=encoder.match(genes.tolist()), reason=f"too few genes: {error}")
    if encoder.needs_centres:
        # Its embeddings hold those of the neighbours, which would be predicted from themselves.
        return Gate(tokens=tokens, match=match, reason="used: the encoder reads neighbours, so it was not measured")
    reach = find_reach(_unit(tokens), spots.centres, pitch=windows.pitch)
    ratio = reach.best / own.best if own.best > 0 and len(reach.r2) else None
    if reach.best > max(own.best, 0):
        return Gate(tokens=tokens, match=match, reach=reach, ratio=ratio, reason="used: the encoder is at home here")
    reason = "left out: neighbours resemble each other more in the section's own components than in the encoder's"
    return Gate(tokens=None, match=match, reach=reach, ratio=ratio, reason=reason)


def choices(reach: Reach, gate: Gate, windows: Windows, *, um_known: bool) -> dict[str, Any]:
    """What was chosen, and from what, for the provenance."""
    facts: dict[str, Any] = {"reach": reach.sigma, **_curve("reach", reach)}
    if um_known:
        facts["reach_um"] = reach.sigma * windows.pitch
    if gate.ratio is not None:
        facts["gate"] = gate.ratio
    if gate.reach is not None:
        facts |= _curve("gate", gate.reach)
    return facts | {"st_tokens": gate.tokens is not None, "st_tokens_reason": gate.reason}


def _curve(name: str, reach: Reach) -> dict[str, list[float]]:
    return {f"{name}_sigmas": np.round(reach.sigmas, 4).tolist(), f"{name}_r2": np.round(reach.r2, 6).tolist()}


def _unit(tokens: np.ndarray) -> np.ndarray:
    """Rows around their mean, of unit length."""
    known = finite_rows(tokens)
    centred = tokens - tokens[known].mean(axis=0) if known.any() else tokens
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.float32(1e-8))
