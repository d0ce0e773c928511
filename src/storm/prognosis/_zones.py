"""``storm.prognosis.zones`` and what differs between the zones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm._bridge.cohort import check_cohort
from storm._bridge.cohort_tables import names
from storm._checks import check_whole
from storm._logging import logger
from storm.biology.rank_aggregation import rho
from storm.prognosis._explain import Explanation, check_explanations, expression_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from storm._bridge.cohort import Cohort

#: Tiles in a zone below which its mean expression says little.
_FEW_TILES = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Zones:
    """High- and low-risk tiles of a slide.

    Attributes
    ----------
    high
        Whether a tile is in the high-risk zone, bool, shape (n,).
    means, sds, weights
        Of the low and the high component.
    bic
        Bayesian information criterion of one and of two components; the lower is better.
    """

    high: np.ndarray
    means: tuple[float, float]
    sds: tuple[float, float]
    weights: tuple[float, float]
    bic: tuple[float, float]

    def __repr__(self) -> str:
        low, high = self.means
        return f"Zones({int(self.high.sum())} of {len(self.high)} tiles high, means {low:.3g} and {high:.3g})"


def zones(contributions: ArrayLike, *, seed: int = 0) -> Zones:
    """Divide the tiles of a slide into a high- and a low-risk zone by a mixture of two Gaussians (paper, Methods).

    Parameters
    ----------
    contributions
        Signed contribution of each tile of one slide, such as ``Explanation.tiles``, shape (n,). Never their size, and
        never scaled between 0 and 1, which would lose the sign.
    seed
        Random seed of the starts.

    Returns
    -------
    Zones

    Raises
    ------
    ValueError
        If a contribution is missing, there are fewer than 20 tiles, or one Gaussian describes them better than two:
        then there are no zones.

    Examples
    --------
    >>> import numpy as np, storm
    >>> rng = np.random.default_rng(0)
    >>> found = storm.prognosis.zones(np.concatenate([rng.normal(-1, 0.3, 60), rng.normal(2, 0.3, 40)]))
    >>> int(found.high.sum())
    40
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    values = np.asarray(contributions, dtype=np.float64)
    if values.ndim != 1 or len(values) < 20 or not np.isfinite(values).all():
        lost = int((~np.isfinite(values)).sum())
        msg = f"contributions has shape {values.shape}, {lost} of them missing; give one for each of 20 tiles or more"
        raise ValueError(msg)
    check_whole(seed, name="seed", least=0)
    # Contributions fall with the number of tiles: the mixture sees them at a scale of one.
    scale = max(float(values.std()), 1e-300)
    scaled = (values / scale)[:, None]
    with warnings.catch_warnings():
        # Two components on the tiles of one converge slowly; the criterion then prefers one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        one, two = (GaussianMixture(k, n_init=5, random_state=seed, tol=1e-6, max_iter=500).fit(scaled) for k in (1, 2))
    bic = float(one.bic(scaled)), float(two.bic(scaled))
    if bic[1] >= bic[0]:
        msg = f"one Gaussian describes the contributions better than two (BIC {bic[0]:.0f} and {bic[1]:.0f}): no zones"
        raise ValueError(msg)
    order = np.argsort(two.means_[:, 0])
    low, high = (int(k) for k in order)
    is_high = two.predict(scaled) == high
    # The wider component also takes the far tail of the other side.
    is_high &= values > two.means_[low, 0] * scale
    sds = np.sqrt(two.covariances_[:, 0, 0]) * scale
    means = two.means_[:, 0] * scale
    return Zones(
        high=is_high,
        means=(float(means[low]), float(means[high])),
        sds=(float(sds[low]), float(sds[high])),
        weights=(float(two.weights_[low]), float(two.weights_[high])),
        bic=bic,
    )


def zone_genes(cohort: Cohort, explanations: Mapping[str, Explanation], *, seed: int = 0) -> pd.DataFrame:
    """Fold change of each gene between the zones of each slide.

    Parameters
    ----------
    cohort
        The cohort, with virtual expression.
    explanations
        What :func:`explain` returned, by patient.
    seed
        As in :func:`zones`.

    Returns
    -------
    DataFrame
        log2 of the mean expression of the high-risk over that of the low-risk zone, on the linear scale with a count of
        1 per 10,000 added, slides × genes. Slides without zones, or with fewer than ten tiles in one, are left out and
        named in a warning in the log.

    Raises
    ------
    ValueError
        If the cohort has no virtual expression or other tiles of a patient, or no slide has zones.
    TypeError
        If ``explanations`` is no dictionary of them.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=60, n_tiles=(200, 300), seed=1)
    >>> model = storm.prognosis.fit(cohort, "DSS", network="abmil", baselines=False)
    >>> patients = cohort.patients.index[:4]
    >>> explanations = {one: storm.prognosis.explain(model, cohort, one) for one in patients}
    >>> changes = storm.prognosis.zone_genes(cohort, explanations)
    >>> changes.shape[1]
    50
    """
    check_cohort(cohort)
    check_explanations(explanations)
    if "st" not in cohort.modalities:
        msg = f"the cohort has no virtual expression, only {list(cohort.modalities)}"
        raise ValueError(msg)
    rows, left_out = {}, {}
    for patient, explanation in explanations.items():
        values = expression_of(cohort, patient, explanation)
        for k, slide in enumerate(explanation.slides):
            own = explanation.slide == k
            try:
                found = zones(explanation.tiles[own], seed=seed)
            except ValueError as error:
                left_out[slide] = str(error)
                continue
            number = int(found.high.sum())
            if min(number, own.sum() - number) < _FEW_TILES:
                left_out[slide] = f"{number} of {int(own.sum())} tiles are in the high-risk zone"
                continue
            linear = np.expm1(values[own].astype(np.float64))
            rows[slide] = np.log2(linear[found.high].mean(axis=0) + 1) - np.log2(linear[~found.high].mean(axis=0) + 1)
    if left_out:
        logger.warning(
            "%d of %d slides have no zones and are left out: %s; the first: %s",
            len(left_out), len(left_out) + len(rows), names(list(left_out)), next(iter(left_out.values())),
        )  # fmt: skip
        for slide, reason in left_out.items():
            logger.debug("slide %s: %s", slide, reason)
    if not rows:
        msg = f"none of {len(left_out)} slides has zones; the first: {next(iter(left_out.values()), 'no slide')}"
        raise ValueError(msg)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(cohort.genes)).rename_axis("slide")


def rank_genes(fold_changes: pd.DataFrame) -> pd.DataFrame:
    """Genes that are higher, and genes that are lower, in the high-risk zones of many slides.

    Parameters
    ----------
    fold_changes
        What :func:`zone_genes` returned; slides of the same patient count as several, so average them before if a few
        patients have many.

    Returns
    -------
    DataFrame
        By gene, best first: ``direction`` (``"up"`` or ``"down"``), ``log2fc`` (median over slides), ``n_slides``,
        ``rho`` of robust rank aggregation in this direction, and ``padj`` (Benjamini–Hochberg over both directions).

    Raises
    ------
    TypeError
        If ``fold_changes`` is no data frame.

    References
    ----------
    Kolde et al., Bioinformatics 28, 573 (2012).

    Examples
    --------
    log2 fold changes between the zones of five slides, as :func:`zone_genes` returns them:

    >>> import numpy as np
    >>> import pandas as pd
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> changes = pd.DataFrame(rng.normal(size=(5, 50)), columns=[f"gene{i}" for i in range(50)])
    >>> changes["gene7"] += 6
    >>> storm.prognosis.rank_genes(changes).index[0]
    'gene7'
    """
    from scipy.stats import false_discovery_control

    if not isinstance(fold_changes, pd.DataFrame):
        msg = f"fold_changes is a {type(fold_changes).__name__}; give what storm.prognosis.zone_genes returned"
        raise TypeError(msg)
    values = fold_changes.to_numpy(dtype=np.float64)
    measured = np.isfinite(values)
    length = np.maximum(measured.sum(axis=1), 1)[:, None]
    parts = []
    for direction, signed in (("up", -fold_changes), ("down", fold_changes)):
        ranks = signed.rank(axis=1, method="average").to_numpy() / length
        parts.append(
            pd.DataFrame(
                {
                    "gene": fold_changes.columns,
                    "direction": direction,
                    "log2fc": np.nanmedian(values, axis=0),
                    "n_slides": measured.sum(axis=0),
                    "rho": rho(ranks.T),
                }
            )
        )
    both = pd.concat(parts, ignore_index=True).dropna(subset="rho")
    both["padj"] = false_discovery_control(both["rho"])
    both = both.sort_values(["rho", "log2fc"], ascending=[True, False], kind="stable")
    return both.drop_duplicates("gene").set_index("gene")
