"""Checks of the table: genes, counts, neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._inference.record import few_genes
from storm.data.genes import TooFewGenesError
from storm.data.windows import small_bins
from storm.pp._reading import text_of
from storm.pp._report import Row, Verdict

if TYPE_CHECKING:
    from storm._loading import StormModel
    from storm.data.spots import Spots
    from storm.data.windows import Windows

#: Share of the model's genes, and of the table's, below which one is warned.
_SHARED = 0.3
#: Median counts below which one is warned, and the share of spots without any.
_MEDIAN, _EMPTY = 20, 0.1
#: Share of a window's members, in the mean, below which one is warned.
_MEMBERS = 0.5


def counts_rows(spots: Spots, model: StormModel) -> list[Row]:
    """Rows about genes and counts."""
    total = np.asarray(spots.expression[0].sum(axis=1)).ravel()
    return [_genes(spots, model, total), _counts(spots, total)]


def _genes(spots: Spots, model: StormModel, total: np.ndarray) -> Row:
    counts, genes = spots.expression
    match = model.expression.match(genes)
    known = sum(map(len, (match.matched, match.aliased)))
    facts = {**match.summary(), "n_genes": len(genes)}
    value = (
        f"{known:,} of the table's {len(genes):,} are known to {model.name!r}: {len(match.matched):,} matched, "
        f"{len(match.aliased):,} aliased; {len(match.ambiguous):,} ambiguous, {len(match.missing):,} missing"
    )
    vocabulary = getattr(model.expression, "vocabulary", None)
    if vocabulary is not None:
        facts["n_model"] = len(vocabulary)
        value += f"; the model reads {len(vocabulary):,}"
    # The adaptive read-out stands on the section's own genes where the model knows too few.
    few: Verdict = "warn" if model.settings["readout"] == "adaptive" else "fail"
    some = np.flatnonzero(total > 0)[:8]
    if len(some) and not model.expression.needs_centres:
        try:
            model.expression.encode(counts[some], genes, centres=spots.centres[some])
        except TooFewGenesError as error:
            return Row("genes", value, few, text_of(error), facts)
        except ValueError as error:
            return Row("genes", value, "fail", text_of(error), facts)
    if known == 0:
        text = f"unknown are {', '.join(map(repr, match.missing[:5]))}…: are var_names gene symbols or Ensembl ids?"
        return Row("genes", value, few, text, facts)
    text = few_genes(match, model)
    if text:
        return Row("genes", value, "warn", f"{text}: so little says the network about this expression", facts)
    if vocabulary is not None and known < _SHARED * len(vocabulary):
        text = (
            f"the table measures {known / len(vocabulary):.0%} of the genes that the model reads; what it does not "
            "measure counts as not there. A targeted panel is like that, and H&E then carries more of the embedding"
        )
        if known >= _SHARED * len(genes):
            return Row("genes", value, "info", text, facts)
        unknown = ", ".join(map(repr, match.missing[:5]))
        return Row("genes", value, "warn", f"{text}; unknown are {unknown}, …", facts)
    return Row("genes", value, "ok", facts=facts)


def _counts(spots: Spots, total: np.ndarray) -> Row:
    empty, median = int((total == 0).sum()), float(np.median(total))
    genes = float(np.median(np.diff(spots.expression[0].indptr)))
    facts = {"median": median, "empty": empty, "median_genes": genes}
    value = f"whole numbers; median {median:,.0f} counts of {genes:,.0f} genes per spot; {empty:,} spots have none"
    if empty == len(total):
        return Row("counts", value, "fail", "the table holds no counts at all", facts)
    if median < _MEDIAN:
        text = (
            "so few say little of a spot by itself: sum bins to larger ones, or leave out what is not tissue; its "
            "neighbourhood and its H&E carry the embedding"
        )
        return Row("counts", value, "warn", text, facts)
    if empty > _EMPTY * len(total):
        text = f"{empty / len(total):.0%} of the spots get no expression token: leave out what is not tissue"
        return Row("counts", value, "warn", text, facts)
    return Row("counts", value, "ok", facts=facts)


def windows_row(spots: Spots, windows: Windows) -> Row:
    """How complete the neighbourhoods are."""
    members = (windows.index[windows.index[:, 0] >= 0] >= 0).sum(axis=1)
    size = windows.index.shape[1]
    mean, complete, alone = float(members.mean()), float((members == size).mean()), float((members == 1).mean())
    facts = {"size": size, "mean": mean, "complete": complete, "alone": alone, "kind": windows.kind}
    kinds = {"square": "5 × 5 on a square lattice", "hex": "on a hexagonal lattice", "knn": "nearest cells"}
    value = f"{mean:.1f} of {size} members in the mean ({kinds[windows.kind]}), {complete:.0%} complete"
    if size > 1 and mean < _MEMBERS * size:
        text = (
            f"{alone:.0%} of the spots have no neighbour at all. Positions without a spot stay empty, they are not "
            "filled from further away: were spots dropped that belong to the tissue, or several sections put beside "
            "each other?"
        )
        return Row("windows", value, "warn", text, facts)
    return Row("windows", value, "ok", facts=facts)


def bins_row(spots: Spots, windows: Windows) -> list[Row]:
    """Advice for bins that are too small."""
    advice = small_bins(windows, um_known=spots.um_known)
    if not advice:
        return []
    value = f"{len(spots):,} bins of {windows.pitch:.3g} µm"
    return [Row("bins", value, "fail", f"storm.tl refuses them: {advice}", {"bin_um": windows.pitch})]
