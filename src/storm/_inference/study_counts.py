"""Counts of the genes that all sections of a study measure, read one section after the other."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from storm._bridge.counts import read_counts
from storm._bridge.read import spots_of
from storm._logging import logger
from storm.data.genes import as_symbols
from storm.data.libraries import LEAST_COMMON
from storm.data.order import spatial_order
from storm.data.spots import Spots

if TYPE_CHECKING:
    from storm._bridge.study import Study
    from storm._loading import StormModel


@dataclass(eq=False)
class StudyCounts:
    """What :func:`~storm.data.expression_axes.fit_axes` goes through: of each section its counts and its rows.

    Only names of genes and numbers of rows are kept; the counts are read anew each time.

    Attributes
    ----------
    study
        The sections.
    model
        The model, whose vocabulary translates Ensembl ids.
    genes
        Symbols of the common genes, in upper case, sorted.
    columns
        Per section: their columns, shape (common genes,).
    rows
        Per section: rows with a place, in spatial order.
    """

    study: Study
    model: StormModel
    genes: list[str] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[csr_matrix, np.ndarray]]:
        for section, columns, rows in zip(self.study, self.columns, self.rows, strict=True):
            selection = section.open(image=False)
            assert selection.table is not None  # its counts have been read before
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what there is to say was said when it was read first
                counts, _ = read_counts(selection.table, selection.keys.layer, vocabulary=_vocabulary(self.model))
            yield counts[:, columns], rows

    def of(self, spots: Spots, k: int) -> csr_matrix:
        """Counts of the common genes of section k, which has been read already."""
        return spots.expression[0][:, self.columns[k]]


def read_study(study: Study, model: StormModel) -> StudyCounts:
    """Read which genes the sections measure, and where their rows are.

    Raises
    ------
    KeyError, ValueError
        As :func:`storm.tl.embed`; also if two sections are the same, one has no counts, or they measure different genes
        and have fewer than 20 in common.
    """
    result = StudyCounts(study, model)
    names: list[dict[str, int]] = []
    seen: dict[str, str] = {}
    for section in study:
        with section.named():
            spots = spots_of(section.open(), counts=True, vocabulary=_vocabulary(model))
        counts, genes = spots.expression
        digest = _digest(counts)
        if digest is not None and digest in seen:
            msg = f"sections {seen[digest]!r} and {section.name!r} hold the same counts; give each section once"
            raise ValueError(msg)
        seen[digest or section.name] = section.name
        symbols = [name.upper() for name in as_symbols(genes, model.vocabulary)]
        names.append({name: at for at, name in reversed(list(enumerate(symbols)))})
        placed = np.flatnonzero(spots.placed)
        result.rows.append(placed[spatial_order(spots.centres[placed])])
    common = set(names[0]).intersection(*names[1:])
    sizes = [len(own) for own in names]
    if len(common) < min(LEAST_COMMON, max(sizes)):
        listed = ", ".join(f"{section.name!r} {size}" for section, size in zip(study, sizes, strict=True))
        msg = (
            f"the sections have {len(common)} genes in common, too few for shared axes (at least {LEAST_COMMON}); they "
            f"measure {listed}. Name the genes of all sections alike, symbols or Ensembl ids, leave a section out, or "
            f"embed each by itself with joint=False"
        )
        raise ValueError(msg)
    if len(common) < max(sizes):
        logger.warning(
            "%d sections measure %d to %d genes: the %d that all of them measure are used",
            len(sizes), min(sizes), max(sizes), len(common),
        )  # fmt: skip
    result.genes = sorted(common)
    result.columns = [np.array([own[name] for name in result.genes]) for own in names]
    return result


def _vocabulary(model: StormModel):
    return getattr(model.expression, "vocabulary", None)


def _digest(counts: csr_matrix) -> str | None:
    """A checksum of a section's counts that does not depend on the order of its rows; ``None`` without counts."""
    totals = np.sort(np.asarray(counts.sum(axis=1)).ravel())
    if not totals.any():
        return None
    by_gene = np.asarray(counts.sum(axis=0)).ravel()
    return hashlib.sha256(totals.astype("<f8").tobytes() + by_gene.astype("<f8").tobytes()).hexdigest()
