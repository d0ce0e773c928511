"""How well spatial domains agree with an annotation, and how well they hang together in space.

The eight scores of the STORM paper (arXiv 2604.03630, *Spatial domain discovery*: NMI, ARI, FMI, homogeneity,
completeness, CHAOS, PAS, ASW), and two scores for domains without an annotation (FIDE, JSD).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from storm.metrics._arrays import codes, missing
from storm.metrics._silhouette import Silhouette, silhouette
from storm.metrics.agreement import ari, completeness, fmi, homogeneity, nmi
from storm.metrics.coherence import asw, chaos, fide, jsd, pas

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import ArrayLike

__all__ = [
    "Silhouette",
    "ari",
    "asw",
    "chaos",
    "completeness",
    "fide",
    "fmi",
    "homogeneity",
    "jsd",
    "nmi",
    "pas",
    "score_domains",
    "silhouette",
]


def score_domains(
    labels_true: ArrayLike | None,
    labels_pred: ArrayLike,
    coords: ArrayLike | None = None,
    *,
    unlabelled: Collection[Any] = (),
    chaos_convention: Literal["sdmbench", "spatialpca"] = "sdmbench",
    k: int = 10,
    max_n: int = 20_000,
    seed: int = 0,
) -> dict[str, float | int | bool]:
    """All scores of one section.

    Unlabelled spots are left out of the *scoring* only: agreement is scored on the spots that have both labels, the
    spatial scores on all spots that have a predicted label and a position.

    Parameters
    ----------
    labels_true
        Annotation, shape (n,), or ``None`` where there is none. Missing entries mark spots without annotation.
    labels_pred
        Domains, shape (n,). Missing entries mark spots without a domain.
    coords
        Positions, shape (n, 2), or ``None`` to leave out the spatial scores. Rows that are not finite have no position.
    unlabelled
        Labels of the annotation that mean "no annotation", such as ``("undetermined",)``.
    chaos_convention, k, max_n, seed
        See :func:`chaos`, :func:`pas` and :func:`silhouette`.

    Returns
    -------
    ``ari``, ``nmi``, ``fmi``, ``homogeneity``, ``completeness`` over ``n_scored`` spots; ``chaos``, ``pas``, ``asw``
    over ``n_spatial`` spots, with ``asw_exact`` and ``asw_stderr``; ``n_domains``. A spatial score that is not
    defined (one domain only, or no more than ``k`` spots) is NaN.

    Raises
    ------
    ValueError
        If lengths differ, or no spot is left to score.
    """
    lost = missing(labels_pred)
    n = len(lost)
    pred = np.asarray(labels_pred, dtype=object)
    if lost.all():
        msg = f"none of the {n} spots has a predicted label: there is nothing to score"
        raise ValueError(msg)
    scores: dict[str, float | int | bool] = {"n_domains": codes(pred[~lost], name="labels_pred")[1]}

    if labels_true is not None:
        true = np.asarray(labels_true, dtype=object)
        if len(true) != n:
            msg = f"labels_true has {len(true)} labels and labels_pred {n}; they describe the same spots"
            raise ValueError(msg)
        both = ~lost & ~missing(true, unlabelled=unlabelled)
        if not both.any():
            msg = f"none of the {n} spots has both an annotation and a predicted label: there is nothing to score"
            raise ValueError(msg)
        for score in (ari, nmi, fmi, homogeneity, completeness):
            scores[score.__name__] = score(true[both], pred[both])
        scores["n_scored"] = int(both.sum())

    if coords is not None:
        xy = np.asarray(coords, dtype=np.float64)
        if xy.ndim != 2 or len(xy) != n:
            msg = f"coords have shape {xy.shape}, expected ({n}, 2): one row per label"
            raise ValueError(msg)
        placed = ~lost & np.isfinite(xy).all(axis=1)
        xy, labels = xy[placed], pred[placed]
        if not len(xy):
            msg = f"none of the {n} spots has both a position and a predicted label: there is nothing to score"
            raise ValueError(msg)
        scores["chaos"] = chaos(xy, labels, convention=chaos_convention)
        scores["pas"] = pas(xy, labels, k=k) if len(xy) > k else float("nan")
        if codes(labels, name="labels_pred")[1] > 1:
            width = silhouette(xy, labels, max_n=max_n, seed=seed)
            scores.update(asw=width.value, asw_exact=width.exact, asw_stderr=width.stderr)
        else:
            scores.update(asw=float("nan"), asw_exact=True, asw_stderr=0.0)
        scores["n_spatial"] = len(xy)
    return scores
