"""Names of clusters that are kept from one clustering of the same rows to the next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from scipy.optimize import linear_sum_assignment


def keep_names(codes: np.ndarray, earlier: np.ndarray, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Name clusters after those of an earlier clustering, so that as many rows as possible keep their name.

    Each earlier name goes to one cluster at most, and a cluster gets no name with which it shares no row. The
    assignment is the one of the largest sum of shared rows (Hungarian method; Kuhn, Naval Res. Logist. 1955). Clusters
    left over get the lowest whole numbers that are not names yet.

    Parameters
    ----------
    codes
        Cluster of each row, 0 … K - 1, shape (n,); -1 for none.
    earlier
        Earlier cluster of each row as a position in ``names``, shape (n,); -1 for none.
    names
        Earlier names.

    Returns
    -------
    names : list of str
        Names of the categories: the earlier ones that remain, in their order, then the new ones.
    codes : ndarray
        Category of each row as a position in them, shape (n,); -1 for none.
    """
    n_clusters = int(codes.max(initial=-1)) + 1
    shared = np.zeros((n_clusters, len(names)), dtype=np.int64)
    both = (codes >= 0) & (earlier >= 0)
    np.add.at(shared, (codes[both], earlier[both]), 1)
    matched = {k: j for k, j in zip(*linear_sum_assignment(shared, maximize=True), strict=True) if shared[k, j]}
    fresh = (str(number) for number in count() if str(number) not in set(names))
    order = [*sorted(matched, key=lambda k: matched[k]), *(k for k in range(n_clusters) if k not in matched)]
    position = np.empty(n_clusters + 1, dtype=int)
    position[order] = np.arange(n_clusters)
    position[-1] = -1  # the code of no cluster
    return [names[matched[k]] if k in matched else next(fresh) for k in order], position[codes]
