"""Agreement between two labellings of the same spots, scored by scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm.metrics._arrays import codes

if TYPE_CHECKING:
    import numpy as np

    from storm.metrics._arrays import Labels

__all__ = ["ari", "completeness", "fmi", "homogeneity", "nmi"]


def _pair(labels_true: Labels, labels_pred: Labels) -> tuple[np.ndarray, np.ndarray]:
    true, _ = codes(labels_true, name="labels_true")
    pred, _ = codes(labels_pred, name="labels_pred")
    if len(true) != len(pred):
        msg = f"labels_true has {len(true)} labels and labels_pred {len(pred)}; they describe the same spots"
        raise ValueError(msg)
    return true, pred


def ari(labels_true: Labels, labels_pred: Labels) -> float:
    """Adjusted Rand index.

    Parameters
    ----------
    labels_true, labels_pred
        One label per spot, shape (n,), of any type, without missing labels.

    Returns
    -------
    float
        At most 1 (the same partition); 0 on average for random labels.

    Raises
    ------
    ValueError
        If a label is missing or the lengths differ.

    References
    ----------
    Hubert and Arabie, Comparing partitions, J. Classif. 1985.

    Examples
    --------
    >>> import storm
    >>> storm.metrics.ari(["a", "a", "b", "b"], [1, 1, 0, 0])
    1.0
    >>> float(round(storm.metrics.ari(["a", "a", "b", "b"], [0, 1, 1, 1]), 3))
    0.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_pair(labels_true, labels_pred)))


def nmi(labels_true: Labels, labels_pred: Labels) -> float:
    """Normalised mutual information, normalised by the arithmetic mean of the two entropies.

    Parameters
    ----------
    labels_true, labels_pred
        One label per spot, shape (n,), of any type, without missing labels.

    Returns
    -------
    float
        Between 0 and 1 (the same partition).

    Raises
    ------
    ValueError
        If a label is missing or the lengths differ.

    Examples
    --------
    >>> import storm
    >>> float(round(storm.metrics.nmi(["a", "a", "b", "b"], [0, 0, 1, 2]), 3))
    0.8
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_pair(labels_true, labels_pred)))


def fmi(labels_true: Labels, labels_pred: Labels) -> float:
    """Fowlkes-Mallows index: geometric mean of pairwise precision and recall.

    Parameters
    ----------
    labels_true, labels_pred
        One label per spot, shape (n,), of any type, without missing labels.

    Returns
    -------
    float
        Between 0 and 1 (the same partition).

    Raises
    ------
    ValueError
        If a label is missing or the lengths differ.

    References
    ----------
    Fowlkes and Mallows, A method for comparing two hierarchical clusterings, JASA 1983.

    Examples
    --------
    >>> import storm
    >>> float(round(storm.metrics.fmi(["a", "a", "b", "b"], [0, 0, 1, 2]), 3))
    0.707
    """
    from sklearn.metrics import fowlkes_mallows_score

    return float(fowlkes_mallows_score(*_pair(labels_true, labels_pred)))


def homogeneity(labels_true: Labels, labels_pred: Labels) -> float:
    """Homogeneity: 1 if each predicted domain holds spots of one true domain only.

    Parameters
    ----------
    labels_true, labels_pred
        One label per spot, shape (n,), of any type, without missing labels.

    Returns
    -------
    float
        1 - H(true | pred) / H(true), between 0 and 1.

    Raises
    ------
    ValueError
        If a label is missing or the lengths differ.

    References
    ----------
    Rosenberg and Hirschberg, V-measure, EMNLP 2007.

    Examples
    --------
    A domain that is cut in two is still homogeneous:

    >>> import storm
    >>> float(round(storm.metrics.homogeneity(["a", "a", "b", "b"], [0, 0, 1, 2]), 3))
    1.0
    """
    from sklearn.metrics import homogeneity_score

    return float(homogeneity_score(*_pair(labels_true, labels_pred)))


def completeness(labels_true: Labels, labels_pred: Labels) -> float:
    """Completeness: 1 if each true domain lies in one predicted domain.

    Parameters
    ----------
    labels_true, labels_pred
        One label per spot, shape (n,), of any type, without missing labels.

    Returns
    -------
    float
        1 - H(pred | true) / H(pred), between 0 and 1.

    Raises
    ------
    ValueError
        If a label is missing or the lengths differ.

    References
    ----------
    Rosenberg and Hirschberg, V-measure, EMNLP 2007.

    Examples
    --------
    A domain that is cut in two is no longer complete:

    >>> import storm
    >>> float(round(storm.metrics.completeness(["a", "a", "b", "b"], [0, 0, 1, 2]), 3))
    0.667
    """
    from sklearn.metrics import completeness_score

    return float(completeness_score(*_pair(labels_true, labels_pred)))
