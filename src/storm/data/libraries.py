"""Library sizes that can be compared between sections which measure different genes.

Counts per 10,000 mean something else on a panel of 300 genes than on a whole transcriptome: the same gene is a larger
share of fewer counts. Where sections measure materially different genes, their library sizes are therefore the counts
of the genes that all of them measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

#: Share of a section's counts that the common genes must hold for its own total to be used: the error is at most
#: log(1 / 0.95) = 0.05 log units. Over sections of one platform, whose tables lack some rare genes each, it is above
#: 0.98 (twelve sections of her2st with 14,861 to 15,842 genes).
NEARLY_ALL = 0.95
#: Fewest common genes whose counts are a library: with fewer, one gene is most of the sum, and normalises itself.
LEAST_COMMON = 20


@dataclass(frozen=True)
class Library:
    """The genes whose counts add up to the library size of a spot.

    Attributes
    ----------
    genes
        Names of these genes in upper case, sorted; ``None`` for all genes of each table.
    """

    genes: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return "all genes" if self.genes is None else f"{len(self.genes)} common genes"

    @property
    def units(self) -> str:
        """Unit of what :func:`storm.data.normalise.log_normalise` makes of counts with this library."""
        if self.genes is None:
            return "log1p of counts per 10,000"
        return f"log1p of counts per 10,000 counts of the {len(self.genes)} genes that all training sections measure"

    def columns(self, names: Iterable[str]) -> np.ndarray | None:
        """Columns of a table that the library consists of, bool, shape (g,); ``None`` for all of them.

        Parameters
        ----------
        names
            Symbol of each column, shape (g,); Ensembl ids are translated before.
        """
        if self.genes is None:
            return None
        known = set(self.genes)
        return np.array([str(name).upper() in known for name in names], dtype=bool)


def shared_library(names: Sequence[Sequence[str]], totals: Sequence[np.ndarray]) -> tuple[Library, list[float]]:
    """Choose the library of sections that are learned from together.

    Parameters
    ----------
    names
        Per section: symbol of each column, shape (g,), of any letter case; Ensembl ids are translated before.
    totals
        Per section: counts of each column, over all its spots, shape (g,).

    Returns
    -------
    library : Library
        All genes of each section if every section has at least 95 % of its counts in the genes that all of them
        measure; else these common genes.
    shares : list of float
        Share of each section's counts in the common genes.

    Raises
    ------
    ValueError
        If the sections measure different genes, and fewer than 20 in common.
    """
    keys = [np.array([str(name).upper() for name in own], dtype=object) for own in names]
    common = set(keys[0]).intersection(*keys[1:])
    shares = []
    for own, counts in zip(keys, totals, strict=True):
        inside = np.array([key in common for key in own], dtype=bool)
        total = float(np.sum(counts))
        shares.append(float(np.sum(counts[inside])) / total if total > 0 else 1.0)
    if min(shares) >= NEARLY_ALL:
        return Library(), shares
    if len(common) < LEAST_COMMON:
        sizes = ", ".join(str(len(own)) for own in keys)
        shared = f"{len(common)} genes" if common else "no gene"
        msg = (
            f"the sections measure {sizes} genes and have {shared} in common, too few to compare their counts (at "
            f"least {LEAST_COMMON}): counts per 10,000 of different genes are not comparable. Use sections of one "
            "panel, or name the genes of all sections the same way, symbols or Ensembl ids"
        )
        raise ValueError(msg)
    return Library(tuple(sorted(common))), shares
