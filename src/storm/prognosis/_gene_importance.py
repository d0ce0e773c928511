"""``storm.prognosis.gene_importance``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm.prognosis._explain import Explanation, check_explanations, expression_of

if TYPE_CHECKING:
    from storm._bridge.cohort import Cohort


def gene_importance(cohort: Cohort, explanations: Mapping[str, Explanation]) -> pd.DataFrame:
    """Genes by how much of the differences in risk between patients goes with their expression, and in which direction.

    A patient's risk is the sum of the contributions of all genes and of the H&E. The part of a gene's contribution that
    goes with the patient's mean expression of it (a line fitted over patients) has a covariance with the risk; its
    share is this covariance over the variance of the risk. It depends neither on a reference that all patients share
    nor on the unit of expression. It is negative where the part works against the rest, and the shares do not add up to
    1: the remainder goes with the H&E, and with where and beside what a gene is expressed.

    This is about differences *between* patients. What differs between zones *within* slides is the question of
    :func:`zone_genes`; a gene whose level is the whole patient's never answers that one. Either says what a model uses,
    not what causes an outcome.

    Parameters
    ----------
    cohort
        The cohort, with virtual expression.
    explanations
        What :func:`explain` returned, by patient, all by one model with one reference: contributions to the risks of
        different models are on different scales. Covariances of a few patients are mostly chance; give all held-out
        ones.

    Returns
    -------
    DataFrame
        By gene, best first: ``share``; ``direction``, ``"up"`` if its contribution rises with its expression; ``r``,
        Pearson's correlation of mean expression and risk over patients, which asks the model for its risks only;
        ``size``, the mean over patients of the size of the total contribution, in units of the risk.

    Raises
    ------
    ValueError
        If there are fewer than three patients, they have no virtual expression, other genes or other tiles, or their
        risks do not differ.
    KeyError
        If a patient is not of the cohort.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=60, n_tiles=(20, 40))
    >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False)
    >>> explanations = {one: storm.prognosis.explain(model, cohort, one) for one in cohort.patients.index[:20]}
    >>> storm.prognosis.gene_importance(cohort, explanations).columns.tolist()
    ['share', 'direction', 'r', 'size']

    References
    ----------
    Sundararajan, Taly & Yan, Proceedings of Machine Learning Research 70, 3319 (2017): contributions add up.
    """
    check_explanations(explanations)
    genes = list(cohort.genes)
    if not genes:
        msg = "the cohort has no virtual expression, so that there are no genes to rank"
        raise ValueError(msg)
    sums, expressed = [], []
    for patient, one in explanations.items():
        if one.genes is None or list(one.gene_names) != genes:
            number = 0 if one.genes is None else len(one.gene_names)
            msg = (
                f"patient {patient!r}: {number} genes are explained, and they are not the {len(genes)} of the cohort; "
                f"give explanations of this cohort, by a model of its genes"
            )
            raise ValueError(msg)
        values = expression_of(cohort, patient, one)
        sums.append(one.genes.sum(axis=0, dtype=np.float64))
        expressed.append(values.mean(axis=0, dtype=np.float64))
    if len(explanations) < 3:
        msg = f"{len(explanations)} patients are given; differences between patients need three or more"
        raise ValueError(msg)
    totals, levels = np.array(sums), np.array(expressed)
    whole = np.array([one.tiles.sum() for one in explanations.values()])
    centred, risk, level = (values - values.mean(axis=0) for values in (totals, whole, levels))
    variance = float(risk @ risk)
    if variance <= 1e-12 * max(float(whole @ whole), 1e-300):
        msg = f"the risks of {len(whole)} patients do not differ, so that there is nothing to divide among genes"
        raise ValueError(msg)
    spread = (level**2).sum(axis=0)
    slope = np.divide((centred * level).sum(axis=0), spread, out=np.zeros(len(genes)), where=spread > 0)
    together = level.T @ risk
    table = pd.DataFrame(
        {
            "share": slope * together / variance,
            "direction": np.where(slope >= 0, "up", "down"),
            "r": np.divide(together, np.sqrt(spread * variance), out=np.full(len(genes), np.nan), where=spread > 0),
            "size": np.abs(totals).mean(axis=0),
        },
        index=pd.Index(genes, name="gene"),
    )
    return table.sort_values("share", ascending=False, kind="stable")
