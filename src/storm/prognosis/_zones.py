"""``storm.prognosis.zones`` and what differs between the zones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm._checks import check_between, check_whole
from storm._logging import logger
from storm.biology.rank_aggregation import rho
from storm.prognosis._explain import Explanation

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
        If the cohort has no virtual expression, or no slide has zones.

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
    if "st" not in cohort.modalities:
        msg = f"the cohort has no virtual expression, only {list(cohort.modalities)}"
        raise ValueError(msg)
    rows, left_out = {}, {}
    for patient, explanation in explanations.items():
        values = cohort.bag(patient).st
        assert values is not None
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
    for slide, reason in left_out.items():
        logger.warning("slide %s has no zones: %s", slide, reason)
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


def compare_tiles(
    explanations: Mapping[str, Explanation], composition: Mapping[str, pd.DataFrame], *, share: float = 0.05
) -> pd.DataFrame:
    """Composition of the tiles that raise the risk most, against those that lower it most, over patients.

    Tiles of a patient are no independent observations: each patient gives one mean for either end, and the test is over
    patients.

    Parameters
    ----------
    explanations
        What :func:`explain` returned, by patient.
    composition
        By patient a table with a row for each tile, in the order of the explanation, and a column for each kind of
        cell.
    share
        Share of the tiles at either end.

    Returns
    -------
    DataFrame
        By kind: ``top`` and ``bottom`` (means over patients), ``difference``, ``statistic`` and ``pvals`` of Welch's
        t-test, ``pvals_adj`` (Benjamini–Hochberg), ``n_patients``.

    Raises
    ------
    ValueError
        If a table has another number of rows than there are tiles, or fewer than three patients are given.
    KeyError
        If a patient has no table.

    Examples
    --------
    Types of tiles, from any table of them, where the risk is highest and lowest:

    >>> import numpy as np
    >>> import pandas as pd
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(100, 200))
    >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False)
    >>> types, explanations, composition = cohort.facts["types"], {}, {}
    >>> for patient in cohort.patients.index[:5]:
    ...     explanations[patient] = storm.prognosis.explain(model, cohort, patient)
    ...     codes = [cohort.features(slide)["type"] for slide in explanations[patient].slides]
    ...     of_tile = pd.Categorical.from_codes(np.concatenate(codes), types)
    ...     composition[patient] = pd.get_dummies(of_tile).astype(float)

    >>> storm.prognosis.compare_tiles(explanations, composition).columns.tolist()[:3]
    ['top', 'bottom', 'difference']
    """
    from scipy.stats import false_discovery_control, ttest_ind

    check_between(share, name="share", low=0.001, high=0.5)
    ends: dict[str, list[pd.Series]] = {"top": [], "bottom": []}
    for patient, explanation in explanations.items():
        if patient not in composition:
            msg = f"there is no composition of patient {patient!r}; there are {list(composition)[:5]}"
            raise KeyError(msg)
        table = composition[patient]
        if len(table) != len(explanation.tiles):
            msg = f"the composition of {patient!r} has {len(table)} rows for {len(explanation.tiles)} tiles"
            raise ValueError(msg)
        number = max(round(share * len(table)), 1)
        order = np.argsort(explanation.tiles, kind="stable")
        ends["top"].append(table.iloc[order[-number:]].mean())
        ends["bottom"].append(table.iloc[order[:number]].mean())
    if len(ends["top"]) < 3:
        msg = f"{len(ends['top'])} patients are given; a test over patients needs three or more"
        raise ValueError(msg)
    top, bottom = (pd.DataFrame(rows) for rows in (ends["top"], ends["bottom"]))
    test = ttest_ind(top, bottom, equal_var=False, nan_policy="omit")
    result = pd.DataFrame(
        {
            "top": top.mean(),
            "bottom": bottom.mean(),
            "difference": top.mean() - bottom.mean(),
            "statistic": np.asarray(test.statistic, dtype=float),
            "pvals": np.asarray(test.pvalue, dtype=float),
        }
    )
    known = result["pvals"].notna()
    result.loc[known, "pvals_adj"] = false_discovery_control(result.loc[known, "pvals"])
    return result.assign(n_patients=len(top)).rename_axis("kind")
