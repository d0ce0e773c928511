"""What the sections of a study measure, and the genes that all of them do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from storm._logging import logger
from storm.data.genes import as_symbols
from storm.data.libraries import LEAST_COMMON
from storm.data.order import spatial_order
from storm.data.spots import Spots

if TYPE_CHECKING:
    from storm._loading import StormModel


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a section measures.

    Attributes
    ----------
    name
        The section's.
    genes
        Symbols in upper case, in the order of the table.
    rows
        Rows with a place, in spatial order.
    digest
        Checksum of its counts that does not depend on the order of its rows; ``None`` without counts.
    he
        Whether its H&E is read.
    """

    name: str
    genes: list[str]
    rows: np.ndarray
    digest: str | None
    he: bool


def measured(spots: Spots, model: StormModel, *, name: str, he: bool) -> Measured:
    """What a section measures; the model's vocabulary translates Ensembl ids."""
    counts, genes = spots.expression
    placed = np.flatnonzero(spots.placed)
    return Measured(
        name=name,
        genes=[symbol.upper() for symbol in as_symbols(genes, model.vocabulary)],
        rows=placed[spatial_order(spots.centres[placed])],
        digest=_digest(counts),
        he=he,
    )


def common_genes(sections: Sequence[Measured]) -> tuple[list[str], list[np.ndarray]]:
    """Genes that all sections measure.

    Returns
    -------
    genes
        Their symbols, sorted.
    columns
        Per section: their columns, shape (common genes,).

    Raises
    ------
    ValueError
        If two sections are the same, some have H&E and others have none, or they measure different genes and have fewer
        than 20 in common.
    """
    seen: dict[str, str] = {}
    for one in sections:
        if one.digest is not None and one.digest in seen:
            msg = f"sections {seen[one.digest]!r} and {one.name!r} hold the same counts; give each section once"
            raise ValueError(msg)
        seen[one.digest or one.name] = one.name
    without = [one.name for one in sections if not one.he]
    if 0 < len(without) < len(sections):
        msg = (
            f"of {len(sections)} sections {len(without)} have no H&E image: {', '.join(map(repr, without))}; leave "
            f"them out, or use modality='st', which reads none"
        )
        raise ValueError(msg)
    names = [{name: at for at, name in reversed(list(enumerate(one.genes)))} for one in sections]
    common = set(names[0]).intersection(*names[1:])
    sizes = [len(own) for own in names]
    if len(common) < min(LEAST_COMMON, max(sizes)):
        listed = ", ".join(f"{one.name!r} {size}" for one, size in zip(sections, sizes, strict=True))
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
    genes = sorted(common)
    return genes, [np.array([own[name] for name in genes]) for own in names]


def _digest(counts: csr_matrix) -> str | None:
    """A checksum of a section's counts that does not depend on the order of its rows; ``None`` without counts."""
    totals = np.sort(np.asarray(counts.sum(axis=1)).ravel())
    if not totals.any():
        return None
    by_gene = np.asarray(counts.sum(axis=0)).ravel()
    return hashlib.sha256(totals.astype("<f8").tobytes() + by_gene.astype("<f8").tobytes()).hexdigest()
