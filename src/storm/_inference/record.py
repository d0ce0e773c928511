"""What a result is made from, and what is written beside it: modalities in use, missing rows, provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm import __version__
from storm._bridge.part import SECTIONS
from storm._inference.device import Compute
from storm._loading import StormModel
from storm._logging import logger, warn
from storm.data.components import finite_rows
from storm.data.genes import GeneMatch, species_of
from storm.data.spots import Spots

#: Read-outs whose axes are those of a section, unless sections were embedded together.
_OWN_AXES = ("adaptive", "section")

if TYPE_CHECKING:
    from storm._inference.tile_cache import TileEmbedding
    from storm._types import Modality, Wanted


#: Share of the model's genes, and of the table's, below which one is warned; share of the table's from which on a small
#: table is a panel that the model knows.
FEW_GENES, KNOWN_PANEL = 0.1, 0.5


def wanted_image(modality: Modality) -> Wanted:
    """Whether an image is needed (``True``), left out (``False``), or read if there is one (``"auto"``)."""
    return "auto" if modality == "auto" else modality != "st"


def wanted_counts(modality: Modality) -> Wanted:
    """Whether counts are needed (``True``), left out (``False``), or read if there are any (``"auto"``)."""
    return "auto" if modality == "auto" else modality != "he"


def wants_tiles(spots: Spots, modality: str) -> bool:
    """Whether H&E is asked for, or is there where what is there is asked for."""
    return modality in ("both", "he") or (modality == "auto" and spots.patches is not None)


def wants_counts(spots: Spots, modality: str) -> bool:
    """Whether expression is asked for, or is there where what is there is asked for.

    Raises
    ------
    ValueError
        If it is asked for and not there, or neither H&E nor expression is there.
    """
    has_genes = spots.genes is not None and len(spots.genes) > 0
    if modality in ("both", "st") and not has_genes:
        msg = f"modality={modality!r} needs a table with counts, and it has no genes; use modality='he'"
        raise ValueError(msg)
    if modality == "auto" and spots.patches is None and not has_genes:
        msg = "the object has neither an H&E image nor counts; there is nothing to embed"
        raise ValueError(msg)
    return has_genes and modality != "he"


def unknown_rows(spots: Spots) -> dict[str, np.ndarray]:
    """Rows of which nothing may be known, bool, shape (n,), by the reason."""
    reasons = {}
    unplaced = ~spots.placed
    if spots.off_tissue is not None:
        reasons["outside the tissue (in_tissue is 0)"] = spots.off_tissue
        unplaced &= ~spots.off_tissue
    reasons["without a geometry"] = unplaced
    if spots.patches is not None:
        reasons["centred outside the image"] = spots.placed & ~spots.patches.inside(spots.centres)
    if spots.counts is not None:
        reasons["without counts"] = np.asarray(spots.counts.sum(axis=1)).ravel() == 0
    return reasons


def warn_nan(values: np.ndarray, reasons: Mapping[str, np.ndarray], *, name: str, section: str = "") -> None:
    """Count the rows that could not be computed, by reason (:func:`unknown_rows`); of a section, if it has a name."""
    missing = ~finite_rows(values)
    if not missing.any():
        return
    counted = ", ".join(f"{(rows & missing).sum()} {why}" for why, rows in reasons.items() if (rows & missing).any())
    where = f"section {section!r}: " if section else ""
    text = f"{where}{missing.sum()} of {len(missing)} rows of {name!r} are NaN: {counted}"
    warn(text)


def few_genes(match: GeneMatch, model: StormModel) -> str:
    """What to say of a table of which a model knows hardly anything; an empty text where it knows enough.

    A small panel most of whose genes the model knows is no such table, although the model reads many more.

    Parameters
    ----------
    match
        How the table's genes match the model's.
    model
        The model.
    """
    vocabulary = getattr(model.expression, "vocabulary", None)
    n_model = match.n_shared if vocabulary is None else len(vocabulary)
    n_table = len(match.index)
    known_panel = match.n_shared >= KNOWN_PANEL * n_table
    wanted = FEW_GENES * (n_table if known_panel else max(n_model, n_table))
    if match.n_shared >= max(wanted, getattr(model.expression, "min_genes", 0)):
        return ""
    return (
        f"{model.name!r} knows {match.n_shared:,} of the table's {n_table:,} genes, which are "
        f"{match.n_shared / max(n_model, 1):.0%} of the {n_model:,} that it reads"
    )


def warn_few_genes(match: GeneMatch, model: StormModel) -> None:
    """Warn if a model knows hardly any of a table's genes, or the table has hardly any of the model's."""
    text = few_genes(match, model)
    if text:
        advice = (
            "so little says the network about this expression; readout='adaptive' stands on the section's own genes, "
            "and storm.tl.adapt(sdata, model=None) fits a model to them"
        )
        warn(f"{text}: {advice}")


def warn_own_axes(records: Iterable[Any], *, name: str) -> None:
    """Warn if an embedding of several sections has axes that mean something else in each of them.

    Parameters
    ----------
    records
        Provenance of the embedding in each table.
    name
        Its key.
    """
    sections: list[Mapping[str, Any]] = []
    for record in records:
        if isinstance(record, Mapping):
            own = record.get(SECTIONS)
            shared = {key: value for key, value in record.items() if key != SECTIONS}
            sections += [shared] if not isinstance(own, Mapping) else [shared | dict(facts) for facts in own.values()]
    alone = [facts for facts in sections if facts.get("readout") in _OWN_AXES and facts.get("modality") != "he"]
    if len(sections) > 1 and alone and len({str(facts.get("axes", k)) for k, facts in enumerate(sections)}) > 1:
        msg = (
            f"the axes of {name!r} mean something else in each of {len(sections)} sections, so that one tissue may get "
            f"different domains in them; embed the sections together first: storm.tl.embed([...]), or one table "
            f"with library_key="
        )
        warn(msg)


def warn_species(names: Iterable[Sequence[str] | np.ndarray], *, what: str) -> None:
    """Warn if lists of genes, of sections or models that meet in one call, are of different species.

    Parameters
    ----------
    names
        Lists of gene symbols or Ensembl ids; those whose species cannot be told do not count.
    what
        What the lists are, for the message, in the same order.
    """
    species = [species_of(own) for own in names]
    if len(set(species) - {None}) > 1:
        listed = ", ".join(one or "unknown" for one in species)
        msg = (
            f"the genes of {what} are of different species ({listed}); what was learned on one may not hold for another"
        )
        warn(msg)


def provenance(
    model: StormModel,
    spots: Spots,
    compute: Compute,
    *,
    match: GeneMatch | None = None,
    tiles: TileEmbedding | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Record what a result was made from; it is stored beside the result.

    Parameters
    ----------
    model
        The model.
    spots
        The section.
    compute
        How the model was run.
    match
        How the genes of the table were matched, if counts were read.
    tiles
        The tile embeddings, if H&E was read.
    **facts
        Parameters of the call; those that are ``None`` are left out.

    Returns
    -------
    dict
        Text, numbers and lists of text.
    """
    record: dict[str, Any] = {
        "storm_version": __version__,
        "model": model.name,
        "sha256": model.sha256,
        "device": str(compute.device),
        "precision": compute.precision,
    }
    if not model.trained:
        record["trained"] = False
        logger.warning("model %r has random weights: its output for a section has no meaning", model.name)
    record |= {name: value for name, value in facts.items() if value is not None}
    if spots.scale is not None:
        record["um_source"] = spots.scale.source
        if spots.scale.um_per_px is not None:
            record["um_per_px"] = float(spots.scale.um_per_px)
    if match is not None:
        record["genes"] = match.summary()
        record["genes_aliased"] = [f"{name}={symbol}" for name, symbol in match.aliased.items()]
        record["genes_ambiguous"] = list(match.ambiguous)
        record["genes_missing"] = list(match.missing)
    return record if tiles is None else record | tiles.record()
