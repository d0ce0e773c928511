"""Cells of the tiles that raise a risk most, and of those that lower it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["composition_boxes"]

_ENDS = {"top": "#b2182b", "bottom": "#2166ac"}


def composition_boxes(
    table: pd.DataFrame, *, kinds: Sequence[str] | None = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw the cells of the tiles that raise the risk most beside those of the tiles that lower it, a dot per patient.

    Nothing is computed: run :func:`storm.prognosis.compare_tiles` first. The p-value is its test over patients,
    adjusted over the kinds.

    Parameters
    ----------
    table
        What :func:`storm.prognosis.compare_tiles` returned, as it is: the patients' values are in its ``attrs``.
    kinds
        Kinds of cells to draw, from left to right; ``None`` for all.
    ax
        Axes to draw into; ``None`` makes a figure.
    title
        Title of the axes.

    Returns
    -------
    Axes
        The axes: boxes are quartiles and median, with whiskers to the farthest patients.

    Raises
    ------
    KeyError
        If there is no such kind, or the table lacks the patients' values.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import tempfile
        >>> import numpy as np
        >>> import pandas as pd
        >>> import storm
        >>> cohort = storm.datasets.toy_cohort(tempfile.mkdtemp() + "/cohort", n_patients=40, n_tiles=(100, 200))
        >>> few = storm.prognosis.OutcomeFit(epochs=5)
        >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=few)
        >>> types, explanations, composition = cohort.facts["types"], {}, {}
        >>> for patient in cohort.patients.index[:12]:
        ...     explanations[patient] = storm.prognosis.explain(model, cohort, patient)
        ...     codes = [cohort.features(slide)["type"] for slide in explanations[patient].slides]
        ...     of_tile = pd.Categorical.from_codes(np.concatenate(codes), types)
        ...     composition[patient] = pd.get_dummies(of_tile).astype(float)
        >>> table = storm.prognosis.compare_tiles(explanations, composition)
        >>> ax = storm.pl.composition_boxes(table)
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    check_axes(ax)
    patients = getattr(table, "attrs", {}).get("by_patient")
    if not patients or "pvals_adj" not in table:
        msg = "the table lacks the patients' values; give what storm.prognosis.compare_tiles returned, as it is"
        raise KeyError(msg)
    shown = list(table.index) if kinds is None else list(kinds)
    if unknown := [kind for kind in shown if kind not in table.index]:
        msg = f"there is no kind {unknown}; there are {list(table.index)}"
        raise KeyError(msg)
    share, p_values = table.attrs["share"], table["pvals_adj"].astype(float).to_dict()
    if ax is None:
        ax = plt.subplots(figsize=(max(1.4 + 0.85 * len(shown), 3.6), 4.2), layout="constrained")[1]
    for place, kind in enumerate(shown):
        for (end, colour), shift in zip(_ENDS.items(), (-0.19, 0.19), strict=True):
            own = np.array([row[end] for row in patients if row["kind"] == kind], dtype=float)
            own = own[np.isfinite(own)]
            ax.boxplot(
                own,
                positions=[place + shift],
                widths=0.3,
                whis=(0, 100),
                showfliers=False,
                manage_ticks=False,
                patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.35, "linewidth": 0.8},
                medianprops={"color": "black", "linewidth": 1.4},
            )
            ax.plot(place + shift + np.linspace(-0.09, 0.09, len(own)), own, "o", color=colour, markersize=3, zorder=3)
        p = p_values[kind]
        text = "–" if np.isnan(p) else f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
        ax.annotate(text, (place, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=7.5)
    slanted: dict[str, Any] = (
        {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, shown)) > 10 else {}
    )
    ax.set_xticks(range(len(shown)), shown, **slanted)
    ax.set(xlim=(-0.6, len(shown) - 0.4), ylabel="mean of a patient's tiles")
    number = len({row["patient"] for row in patients})
    ax.set_xlabel(f"{number} patients; p over patients, adjusted", fontsize=7.5, color="0.4")
    labels = {
        "top": f"the {share:.0%} of tiles that raise the risk most",
        "bottom": f"the {share:.0%} that lower it most",
    }
    handles = [Patch(facecolor=colour, alpha=0.5, label=labels[end]) for end, colour in _ENDS.items()]
    ax.legend(handles=handles, fontsize=7.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.06))
    if title:
        ax.set_title(title, fontsize=10, pad=46)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
