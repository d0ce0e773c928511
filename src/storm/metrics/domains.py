"""Agreement of spatial domains with an annotation, and their coherence in space.

The eight scores of the STORM paper (arXiv 2604.03630, *Spatial domain discovery*: NMI, ARI, FMI, homogeneity,
completeness, CHAOS, PAS, ASW), and two scores for domains without an annotation (FIDE, JSD).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from storm.metrics._arrays import as_labels, codes, coordinates, missing
from storm.metrics._silhouette import Silhouette, silhouette
from storm.metrics.agreement import ari, completeness, fmi, homogeneity, nmi
from storm.metrics.coherence import asw, chaos, fide, jsd, pas

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import ArrayLike

    from storm.metrics._arrays import Labels

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
    labels_true: Labels | None,
    labels_pred: Labels,
    coords: ArrayLike | None = None,
    *,
    unlabelled: Collection[Any] | str = (),
    chaos_convention: Literal["sdmbench", "spatialpca"] = "sdmbench",
    k: int = 10,
    max_n: int = 20_000,
    seed: int = 0,
) -> dict[str, float | int | bool]:
    """All scores of one section.

    Agreement is scored on the spots that have both labels, and the spatial scores on all spots that have a predicted
    label and a position. Missing labels may be ``None``, NaN, ``pandas.NA`` or the nulls of categorical, nullable and
    arrow columns.

    Parameters
    ----------
    labels_true
        Annotation, shape (n,), missing for spots without one; ``None`` to leave out the agreement.
    labels_pred
        Domains, shape (n,), missing for spots without one.
    coords
        Positions, shape (n, 2), or ``None`` to leave out the spatial scores. Spots in rows that are not finite
        have no position.
    unlabelled
        Labels of the annotation that mean "no annotation", such as ``("undetermined",)``; a single one as a string.
    chaos_convention, k, max_n, seed
        See :func:`chaos`, :func:`pas` and :func:`silhouette`.

    Returns
    -------
    dict
        ``ari``, ``nmi``, ``fmi``, ``homogeneity`` and ``completeness`` over ``n_scored`` spots; ``chaos``, ``pas`` and
        ``asw`` over ``n_spatial`` spots, with ``asw_exact`` and ``asw_stderr``; ``n_domains``. A spatial score that is
        not defined (one domain only, or no more than ``k`` spots) is NaN.

    Raises
    ------
    ValueError
        If lengths differ, or no spot remains to be scored.

    Examples
    --------
    >>> import storm
    >>> table = storm.datasets.toy("visium", n=150)["table"]
    >>> storm.tl.embed(table, modality="st")
    >>> storm.tl.domains(table, 5)
    >>> truth, found = table.obs["domain"], table.obs["storm_domain"]
    >>> scores = storm.metrics.score_domains(truth, found, table.obsm["spatial"])
    >>> scores["n_domains"], scores["n_scored"]
    (5, 150)
    """
    pred = as_labels(labels_pred, name="labels_pred")
    lost = missing(pred, name="labels_pred")
    n = len(lost)
    if lost.all():
        msg = f"none of the {n} spots has a predicted label: there is nothing to score"
        raise ValueError(msg)
    scores: dict[str, float | int | bool] = {"n_domains": len(codes(pred[~lost], name="labels_pred")[1])}

    if labels_true is not None:
        true = as_labels(labels_true, name="labels_true")
        if len(true) != n:
            msg = f"labels_true has {len(true)} labels and labels_pred {n}; they describe the same spots"
            raise ValueError(msg)
        both = ~lost & ~missing(true, name="labels_true", unlabelled=unlabelled)
        if not both.any():
            msg = f"none of the {n} spots has both an annotation and a predicted label: there is nothing to score"
            raise ValueError(msg)
        for score in (ari, nmi, fmi, homogeneity, completeness):
            scores[score.__name__] = score(true[both], pred[both])
        scores["n_scored"] = int(both.sum())

    if coords is not None:
        xy = coordinates(coords, n=n, finite=False)
        placed = ~lost & np.isfinite(xy).all(axis=1)
        xy, labels = xy[placed], pred[placed]
        if not len(xy):
            msg = f"none of the {n} spots has both a position and a predicted label: there is nothing to score"
            raise ValueError(msg)
        scores["chaos"] = chaos(xy, labels, convention=chaos_convention)
        scores["pas"] = pas(xy, labels, k=k) if len(xy) > k else float("nan")
        if len(codes(labels, name="labels_pred")[1]) > 1:
            width = silhouette(xy, labels, max_n=max_n, seed=seed)
            scores.update(asw=width.value, asw_exact=width.exact, asw_stderr=width.stderr)
        else:
            scores.update(asw=float("nan"), asw_exact=True, asw_stderr=0.0)
        scores["n_spatial"] = len(xy)
    return scores
