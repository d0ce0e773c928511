"""Domains of several sections compared section by section: counts summed per side, and a paired negative binomial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from storm.biology.ranks import benjamini_hochberg

#: Sections with both sides that a paired test needs: two have one degree of freedom.
LEAST_SECTIONS = 3
#: Spots of a side in a section whose sum is used.
LEAST_SPOTS = 10
#: Counts of a gene over all sums from which it is tested.
_LEAST_COUNTS = 10


@dataclass(frozen=True)
class PairedTest:
    """Result for each gene, shape (g,); NaN for genes that were not tested.

    Attributes
    ----------
    z, p, p_adjusted
        Wald statistic, two-sided p-value, and Benjamini-Hochberg rate over the genes tested.
    log2_fold_change
        Of the domain over the reference, within sections.
    sections
        Numbers of the sections that were used.
    """

    z: np.ndarray
    p: np.ndarray
    p_adjusted: np.ndarray
    log2_fold_change: np.ndarray
    sections: list[int]


def usable_sections(sections: np.ndarray, domain: np.ndarray) -> list[int]:
    """Sections in which both sides have enough spots.

    Parameters
    ----------
    sections
        Section of each spot of the domain and its reference, shape (n,).
    domain
        Which spots are the domain's, bool, shape (n,).
    """
    return [
        int(section)
        for section in np.unique(sections)
        if min((domain & (sections == section)).sum(), (~domain & (sections == section)).sum()) >= LEAST_SPOTS
    ]


def paired_test(
    counts: csr_matrix, domain: np.ndarray, sections: np.ndarray, *, genes: np.ndarray | None = None
) -> PairedTest:
    """Test summed counts by PyDESeq2, with the design ``~ section + side``.

    Parameters
    ----------
    counts
        Raw counts of the spots of both sides, shape (n, g).
    domain
        Which spots are the domain's, bool, shape (n,).
    sections
        Section of each spot, shape (n,); at least three are usable.
    genes
        Which genes to test, bool, shape (g,); ``None`` for all. Those with fewer than ten counts in all are not.

    Returns
    -------
    PairedTest

    Raises
    ------
    ValueError
        If no gene is left.

    References
    ----------
    Muzellec et al., PyDESeq2, Bioinformatics 2023; Love, Huber and Anders, Genome Biology 2014.
    """
    import warnings

    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    used = usable_sections(sections, domain)
    rows, sides = [], []
    for section in used:
        for side, chosen in (("domain", domain), ("reference", ~domain)):
            rows.append(np.asarray(counts[chosen & (sections == section)].sum(axis=0)).ravel())
            sides.append((f"s{section}", side))
    sums = np.rint(np.stack(rows)).astype(int)
    enough = sums.sum(axis=0) >= _LEAST_COUNTS
    tested = np.flatnonzero(enough if genes is None else enough & genes)
    if not len(tested):
        msg = (
            f"no gene is left to test: {enough.sum()} of {len(enough)} have {_LEAST_COUNTS} counts or more in the "
            f"{len(used)} sections that are used, and none of these passes min_pct=; lower it, or use test='wilcoxon'"
        )
        raise ValueError(msg)
    names = [f"{section}-{side}" for section, side in sides]
    frame = pd.DataFrame(sums[:, tested], index=names, columns=[f"g{gene}" for gene in tested])
    metadata = pd.DataFrame(sides, index=names, columns=["section", "side"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about dispersions that do not follow a trend, which it handles
        dds = DeseqDataSet(counts=frame, metadata=metadata, design="~section + side", quiet=True, n_cpus=1)
        dds.deseq2()
        stats = DeseqStats(
            dds, contrast=["side", "domain", "reference"], quiet=True, n_cpus=1, independent_filter=False
        )
        stats.summary()
    result = stats.results_df

    def everywhere(part: np.ndarray) -> np.ndarray:
        whole = np.full(counts.shape[1], np.nan)
        whole[tested] = part
        return whole

    p = result["pvalue"].to_numpy(dtype=float)
    return PairedTest(
        z=everywhere(result["stat"].to_numpy(dtype=float)),
        p=everywhere(p),
        p_adjusted=everywhere(benjamini_hochberg(p)),
        log2_fold_change=everywhere(result["log2FoldChange"].to_numpy(dtype=float)),
        sections=used,
    )
