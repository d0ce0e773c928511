"""Which share of each section each domain has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def proportions(codes: np.ndarray, sections: Sequence[np.ndarray], n_domains: int) -> dict[str, Any]:
    """Shares of the domains in each section.

    Parameters
    ----------
    codes
        Domain of each row, 0 … K - 1, shape (n,); -1 for none.
    sections
        Rows of each section.
    n_domains
        K.

    Returns
    -------
    dict
        ``"shares"``: float64, shape (sections, K), of the rows that have a domain; NaN for a section without such rows.
        ``"n"``: number of these rows, shape (sections,).
    """
    counts = np.array([np.bincount(codes[rows][codes[rows] >= 0], minlength=n_domains) for rows in sections])
    n = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return {"shares": counts / n[:, None], "n": n}
