"""``storm.prognosis.compare_tiles``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from storm._checks import check_between
from storm.prognosis._explain import Explanation, check_explanations


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
        t-test (NaN for a kind that does not vary), ``pvals_adj`` (Benjamini–Hochberg), ``n_patients``.
        ``attrs["by_patient"]`` has the values of each patient, which :func:`storm.pl.composition_boxes` draws.

    Raises
    ------
    ValueError
        If a table has another number of rows than there are tiles or a column that is no number, or fewer than three
        patients are given.
    KeyError
        If a patient has no table.
    TypeError
        If ``explanations`` or ``composition`` is no dictionary.

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
    check_explanations(explanations)
    if not isinstance(composition, Mapping):
        msg = f"composition is a {type(composition).__name__}; give a dictionary with a table for each patient"
        raise TypeError(msg)
    ends: dict[str, list[pd.Series]] = {"top": [], "bottom": []}
    for patient, explanation in explanations.items():
        if patient not in composition:
            msg = f"there is no composition of patient {patient!r}; there are {list(composition)[:5]}"
            raise KeyError(msg)
        table = pd.DataFrame(composition[patient])
        if text := [str(kind) for kind in table if table[kind].dtype.kind not in "biuf"]:
            msg = f"the composition of {patient!r} has columns that are no numbers: {text[:5]}; give counts or shares"
            raise ValueError(msg)
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
    with warnings.catch_warnings():
        # A kind that is the same in all patients has no test: its p-value is NaN.
        warnings.filterwarnings("ignore", message="Precision loss occurred", category=RuntimeWarning)
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
    result = result.assign(n_patients=len(top)).rename_axis("kind")
    result.attrs = {
        "share": share,
        "by_patient": [
            {"patient": patient, "kind": kind, "top": float(high), "bottom": float(low)}
            for kind in result.index
            for patient, high, low in zip(explanations, top[kind], bottom[kind], strict=True)
        ],
    }
    return result
