"""Predicted expression against measurements, gene by gene and slide by slide."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.metrics._arrays import as_labels, coordinates
from storm.metrics.expression import pearson_per_gene
from storm.metrics.intervals import interval_coverage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

    from storm.metrics._arrays import Labels

__all__ = ["coverage_by_depth", "expression_report", "ssim"]

#: Stabilisers of the structural similarity, of the squared range (Wang et al. 2004).
_K1, _K2 = 0.01, 0.03
#: Neighbours of a spot, itself among them, over which structure is compared.
_SSIM_SPOTS = 9


def expression_report(
    truth: ArrayLike,
    pred: ArrayLike,
    *,
    genes: Sequence[str],
    slides: Labels | None = None,
    patients: Labels | None = None,
    trained_on: Sequence[Any] = (),
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    coords: ArrayLike | None = None,
) -> pd.DataFrame:
    """Compare predictions with measurements: a row per gene and slide.

    Parameters
    ----------
    truth, pred
        Measured and predicted expression on the same scale, shape (n, g). A spot where either is NaN does not count for
        that gene.
    genes
        Names of the genes, shape (g,).
    slides
        Slide of each spot, shape (n,); ``None`` if all are of one.
    patients
        Patient of each spot, shape (n,).
    trained_on
        Patients whose sections the prediction was trained on. None of them may be among ``patients``.
    lower, upper
        Limits of prediction intervals, of a shape that fits (n, g).
    coords
        Places of the spots, shape (n, 2), in units that are the same within a slide, for the structural similarity.

    Returns
    -------
    pandas.DataFrame
        Columns ``gene``, ``slide``, ``patient`` (if given), ``n``, ``pearson``, ``spearman``, ``rmse``, ``truth_mean``,
        ``truth_zeros`` (share of spots without a count), ``ssim`` and ``truth_moran`` (with ``coords``), ``coverage``
        and ``width`` (with limits). ``truth_moran`` is Moran's I of the measurement over the eight nearest spots: what
        is noise there cannot be predicted. NaN where a number is not defined, as a correlation with a constant.

    Raises
    ------
    ValueError
        If shapes differ, a slide is of several patients, or a patient is among those that were trained on.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.poisson(2, size=(50, 2)).astype(float)
    >>> pred = truth + rng.normal(size=truth.shape)
    >>> report = storm.metrics.expression_report(truth, pred, genes=["EPCAM", "COL1A1"])
    >>> report[["gene", "n", "pearson"]].round(2)
         gene   n  pearson
    0   EPCAM  50     0.83
    1  COL1A1  50     0.87
    """
    import pandas as pd

    measured, predicted = np.asarray(truth, dtype=np.float64), np.asarray(pred, dtype=np.float64)
    if measured.ndim != 2 or measured.shape != predicted.shape or len(genes) != measured.shape[1]:
        msg = (
            f"truth has shape {measured.shape}, pred {predicted.shape}, and there are {len(genes)} genes; give "
            f"matrices of the same spots and genes"
        )
        raise ValueError(msg)
    n = len(measured)
    slide = np.zeros(n, dtype=object) if slides is None else _one_each(slides, n, name="slides")
    patient = None if patients is None else _one_each(patients, n, name="patients")
    if patient is not None:
        both = sorted({str(name) for name in patient} & {str(name) for name in trained_on})
        if both:
            msg = (
                f"patients {both} are among those that the prediction was trained on; a report on them would "
                f"flatter it (leave them out, or train without them)"
            )
            raise ValueError(msg)
    places = None if coords is None else coordinates(coords, n=n)
    limits = None if lower is None or upper is None else (np.asarray(lower), np.asarray(upper))
    parts = []
    for name in dict.fromkeys(slide.tolist()):
        rows = np.flatnonzero(slide == name)
        x, y = measured[rows], predicted[rows]
        known = ~(np.isnan(x) | np.isnan(y))
        count = known.sum(axis=0)
        safe = np.maximum(count, 1)
        part: dict[str, Any] = {"gene": list(genes), "slide": name}
        if patient is not None:
            owners = sorted({str(one) for one in patient[rows]})
            if len(owners) > 1:
                msg = f"slide {name!r} is of several patients, {owners}; name the slides of each patient differently"
                raise ValueError(msg)
            part["patient"] = patient[rows[0]]
        part |= {
            "n": count,
            "pearson": pearson_per_gene(x, y),
            "spearman": pearson_per_gene(_ranks(x, known), _ranks(y, known)),
            "rmse": _undefined(np.sqrt(np.where(known, np.square(x - y), 0).sum(axis=0) / safe), count),
            "truth_mean": _undefined(np.where(known, x, 0).sum(axis=0) / safe, count),
            "truth_zeros": _undefined((known & (x == 0)).sum(axis=0) / safe, count),
        }
        if places is not None:
            part["ssim"] = ssim(x, y, places[rows])
            part["truth_moran"] = _morans_i(x, places[rows])
        if limits is not None:
            low, high = (np.broadcast_to(limit, measured.shape)[rows] for limit in limits)
            part["coverage"] = interval_coverage(x, low, high)
            part["width"] = _undefined(np.where(known, high - low, 0).sum(axis=0) / safe, count)
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def coverage_by_depth(
    truth: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, depth: ArrayLike, edges: Sequence[float] | None = None
) -> pd.DataFrame:
    """Coverage of prediction intervals over the counts of a spot, on which the error depends most.

    Parameters
    ----------
    truth
        Measured expression, shape (n, g).
    lower, upper
        Limits, of a shape that fits (n, g).
    depth
        Counts of each spot, shape (n,).
    edges
        Limits of the bins of depth, ascending; by default quarters of the spots.

    Returns
    -------
    pandas.DataFrame
        Columns ``depth_from``, ``depth_to``, ``n_spots``, ``coverage`` (of all spots and genes in the bin) and
        ``genes_above_80`` (share of genes of which more than 80 % of the spots are covered).

    Raises
    ------
    ValueError
        If shapes differ or edges do not ascend.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> depth = rng.uniform(100, 1000, size=200)
    >>> truth = rng.normal(size=(200, 10))
    >>> limit = np.full_like(truth, 1.645)  # the middle 90 % of a normal distribution
    >>> table = storm.metrics.coverage_by_depth(truth, -limit, limit, depth=depth, edges=[100, 500, 1000])
    >>> table["coverage"].round(2).tolist()
    [0.91, 0.9]
    """
    import pandas as pd

    measured, counts = np.asarray(truth, dtype=np.float64), np.asarray(depth, dtype=np.float64)
    if measured.ndim != 2 or counts.shape != (len(measured),) or not np.isfinite(counts).all():
        msg = f"depth has shape {counts.shape}; give the counts of each of the {len(measured)} spots"
        raise ValueError(msg)
    limits = np.quantile(counts, np.linspace(0, 1, 5)) if edges is None else np.asarray(edges, dtype=np.float64)
    if limits.ndim != 1 or len(limits) < 2 or (edges is not None and (np.diff(limits) <= 0).any()):
        msg = f"edges={edges!r} must be two or more ascending numbers"
        raise ValueError(msg)
    limits = np.unique(limits)
    if len(limits) == 1:
        limits = np.array([limits[0], limits[0]])
    low, high = (np.broadcast_to(np.asarray(limit, dtype=np.float64), measured.shape) for limit in (lower, upper))
    rows = []
    for k, (start, end) in enumerate(pairwise(limits)):
        # The last bin holds its upper edge.
        last = k == len(limits) - 2
        members = np.flatnonzero((counts >= start) & ((counts <= end) if last else (counts < end)))
        per_gene = interval_coverage(measured[members], low[members], high[members])
        known = per_gene[np.isfinite(per_gene)]
        spots = ~np.isnan(measured[members])
        weight = spots.sum(axis=0)[np.isfinite(per_gene)]
        rows.append(
            {
                "depth_from": start,
                "depth_to": end,
                "n_spots": len(members),
                "coverage": float(np.average(known, weights=weight)) if len(known) else np.nan,
                "genes_above_80": float((known > 0.8).mean()) if len(known) else np.nan,
            }
        )
    return pd.DataFrame(rows)


def ssim(truth: ArrayLike, pred: ArrayLike, coords: ArrayLike, *, k: int = _SSIM_SPOTS) -> np.ndarray:
    """Structural similarity of each gene's map, the mean over spots of that of their surroundings.

    Wang's index of means, variances and covariance, over a spot and its nearest instead of over a window of pixels,
    with the range of the measured gene. Expression must not be negative.

    Parameters
    ----------
    truth, pred
        Shape (n, g). Spots where either is NaN are left out for all genes.
    coords
        Shape (n, 2).
    k
        Spots that are compared, the spot itself among them; 9, the 3 × 3 window of a square lattice.

    Returns
    -------
    ndarray
        Shape (g,), at most 1; NaN for a gene that is constant, or with fewer than k spots.

    References
    ----------
    Wang, Bovik, Sheikh & Simoncelli, IEEE Transactions on Image Processing 13, 600 (2004).

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> coords = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) * 100.0
    >>> truth = np.sin(coords / 200.0)  # two genes, waves along x and along y
    >>> storm.metrics.ssim(truth, truth, coords).round(3)
    array([1., 1.])
    >>> bool((storm.metrics.ssim(truth, truth[:, ::-1], coords) < 0.5).all())
    True
    """
    from scipy.spatial import cKDTree

    x, y = np.asarray(truth, dtype=np.float64), np.asarray(pred, dtype=np.float64)
    places = coordinates(coords, n=len(x))
    known = ~(np.isnan(x) | np.isnan(y)).any(axis=1)
    x, y, places = x[known], y[known], places[known]
    if len(x) < k:
        return np.full(x.shape[1], np.nan)
    near = cKDTree(places).query(places, k)[1].reshape(len(x), k)
    span = x.max(axis=0) - x.min(axis=0)
    c1, c2 = np.square(_K1 * span), np.square(_K2 * span)
    total = np.zeros(x.shape[1])
    for rows in np.array_split(near, max(1, near.size * x.shape[1] // 8_000_000)):
        a, b = x[rows], y[rows]
        mean_a, mean_b = a.mean(axis=1), b.mean(axis=1)
        both = (a * b).mean(axis=1) - mean_a * mean_b
        spread = a.var(axis=1) + b.var(axis=1)
        above = (2 * mean_a * mean_b + c1) * (2 * both + c2)
        below = (np.square(mean_a) + np.square(mean_b) + c1) * (spread + c2)
        total += np.where(below > 0, above / np.where(below > 0, below, 1), np.nan).sum(axis=0)
    return np.where(span > 0, total / len(x), np.nan)


def _morans_i(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Moran's I of each gene over the nearest spots, each of weight 1 (Moran 1950), shape (g,); NaN if it is constant.

    Spots where a gene is NaN count as its mean.
    """
    from scipy.spatial import cKDTree

    k = _SSIM_SPOTS - 1
    if len(values) <= k:
        return np.full(values.shape[1], np.nan)
    near = cKDTree(places).query(places, k + 1)[1][:, 1:]
    known = ~np.isnan(values)
    mean = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    z = np.where(known, values - mean, 0)
    around = np.zeros_like(z)
    for column in near.T:
        around += z[column]
    variance = np.square(z).sum(axis=0)
    return np.where(variance > 0, (z * around).sum(axis=0) / np.where(variance > 0, k * variance, 1), np.nan)


def _one_each(labels: Labels, n: int, *, name: str) -> np.ndarray:
    values = as_labels(labels, name=name)
    lost = sum(value is None for value in values)
    if len(values) != n or lost:
        msg = f"{name} has {len(values)} labels, {lost} of them missing, for {n} spots; give one for each"
        raise ValueError(msg)
    return values


def _ranks(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Ranks per gene over its known spots, ties sharing theirs; NaN elsewhere."""
    from scipy.stats import rankdata

    return rankdata(np.where(known, values, np.nan), axis=0, nan_policy="omit")


def _undefined(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, values, np.nan)
