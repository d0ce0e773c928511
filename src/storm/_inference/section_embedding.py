"""The embedding of one section: what :func:`storm.tl.embed` computes, whether it is alone or one of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.read import spots_of
from storm._inference.adaptive import choices, gate, own_expression
from storm._inference.combine import combine, in_order, modality_of
from storm._inference.device import Compute
from storm._inference.neighbourhoods import section_windows
from storm._inference.reconstruction import reconstructions
from storm._inference.record import (
    provenance,
    unknown_rows,
    wanted_counts,
    wants_counts,
    wants_tiles,
    warn_few_genes,
)
from storm._inference.section_components import own_components
from storm._inference.tile_cache import model_tiles
from storm._inference.tokens import he_tokens, st_tokens
from storm._inference.windows import run_windows
from storm._loading import StormModel
from storm._types import Batch, Field, Modality, Readout, WindowKind
from storm.data.components import finite_rows
from storm.data.journal import Journal
from storm.data.spots import Spots
from storm.data.windows import Windows

if TYPE_CHECKING:
    from storm._bridge.selection import Selection


@dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """How sections are embedded; the names are those of :func:`storm.tl.embed`.

    ``window_size`` is the number of spots in a window where it is not the usual one, for an ablation.
    """

    model: StormModel
    compute: Compute
    modality: Modality
    field_um: float
    field: Field
    window: WindowKind
    radius_um: float | None
    readout: Readout
    seed: int
    window_size: int | None = None
    joint: bool = True
    batch: Batch = "anchors"

    @property
    def absolute(self) -> bool:
        """Whether nothing of a section's own mean is subtracted from its expression: it may be laid beside others."""
        return self.readout == "window"


@dataclass(frozen=True, kw_only=True)
class SectionEmbedding:
    """The embedding of one section.

    Attributes
    ----------
    vector
        Float32, shape (n, d); NaN where nothing could be computed.
    by_modality
        Views of its columns, per modality.
    unknown
        Rows of which nothing may be known, by the reason; see :func:`~storm._inference.record.unknown_rows`.
    facts
        Provenance.
    layout
        Number of columns of each part, in their order: which parts there are depends on the section.
    """

    vector: np.ndarray
    by_modality: dict[str, np.ndarray]
    unknown: dict[str, np.ndarray]
    facts: dict[str, Any]
    layout: dict[str, int]

    def obsm(self, key: str, *, per_modality: bool) -> dict[str, np.ndarray]:
        """Matrices to be written for an embedding that is stored under ``key``."""
        parts = self.by_modality if per_modality else {}
        return {key: self.vector} | {f"{key}_{name}": part for name, part in parts.items()}

    def layouts(self, key: str) -> dict[str, dict[str, int]]:
        """The layout of each of these."""
        return {key: self.layout} | {
            f"{key}_{name}": {part: d for part, d in self.layout.items() if modality_of(part) == name}
            for name in self.by_modality
        }


def read_section(selection: Selection, plan: EmbedPlan) -> tuple[Spots, Windows]:
    """The spots of a section, and their windows."""
    vocabulary = getattr(plan.model.expression, "vocabulary", None)
    spots = spots_of(selection, counts=wanted_counts(plan.modality), vocabulary=vocabulary)
    return spots, section_windows(spots, kind=plan.window, size=plan.window_size, radius_um=plan.radius_um)


def embed_section(selection: Selection, plan: EmbedPlan, journal: Journal) -> SectionEmbedding:
    """Embed one section.

    Parameters
    ----------
    selection
        The section.
    plan
        How.
    journal
        Where finished batches are kept for the next run, if this one is interrupted.

    Raises
    ------
    KeyError, ValueError
        As :func:`storm.tl.embed`.
    """
    read = _read_out(selection, plan, journal)
    means: dict[str, np.ndarray] = {}
    if plan.absolute:
        means = {
            key: np.zeros(part.shape[1], np.float32) for key, part in read.parts.items() if key in ("st", "st_input")
        }
    weights = plan.model.settings["modality_weights"]
    vector, by_modality = combine(read.parts, read.exists, weights, means=means)
    return SectionEmbedding(
        vector=vector,
        by_modality=by_modality,
        unknown=read.unknown,
        facts=read.facts,
        layout={key: read.parts[key].shape[1] for key in in_order(read.parts)},
    )


@dataclass(frozen=True, kw_only=True)
class _ReadOut:
    """What is left of a section after the network; tokens and windows, which are as large as the result, are not.

    Attributes
    ----------
    parts
        As :func:`~storm._inference.combine.combine` takes them.
    exists
        Rows that have a token, bool, shape (n,), per modality.
    unknown, facts
        As in :class:`SectionEmbedding`.
    """

    parts: dict[str, np.ndarray]
    exists: dict[str, np.ndarray]
    unknown: dict[str, np.ndarray]
    facts: dict[str, Any]


def _read_out(selection: Selection, plan: EmbedPlan, journal: Journal) -> _ReadOut:
    loaded, compute, modality = plan.model, plan.compute, plan.modality
    spots, windows = read_section(selection, plan)
    tokens: dict[str, np.ndarray] = {}
    sources: dict[str, np.ndarray] = {}
    tile_facts: dict[str, Any] = {}
    own, match, chosen = None, None, {}
    if wants_tiles(spots, modality):
        tiles = model_tiles(
            selection.table, spots, loaded, compute, field_um=plan.field_um, field=plan.field, journal=journal
        )
        tokens["he"], tile_facts = he_tokens(tiles.values, loaded), tiles.record()
        del tiles  # its values are as large as the tokens
    if wants_counts(spots, modality) and plan.readout == "adaptive":
        own = own_expression(spots, windows)
        decision = gate(own.reach, spots, windows, loaded)
        match, chosen = decision.match, choices(own.reach, decision, windows, um_known=spots.um_known)
        sources["st"] = own.scores
        if decision.tokens is not None:
            tokens["st"] = decision.tokens
    elif wants_counts(spots, modality):
        tokens["st"], match = st_tokens(spots, loaded, by="training" if plan.absolute else None)
    parts: dict[str, np.ndarray] = {}
    if plan.readout == "reconstruction":
        network = loaded.network.to(compute.device).eval()
        parts = reconstructions(network, tokens, windows, compute, seed=plan.seed)
    elif tokens:
        parts = run_windows(
            loaded.network,
            tokens,
            windows,
            compute,
            readout=plan.readout,
            journal=journal,
            facts={"model": loaded.sha256},
        )
    if plan.readout == "section" and "st" in tokens:
        parts["st_own"] = own_components(spots.counts, windows)
    if own is not None:
        parts["st_own"] = own.part
    facts = provenance(
        loaded,
        spots,
        compute,
        match=match,
        modality="both" if len(names := dict.fromkeys(map(modality_of, parts))) == 2 else next(iter(names)),
        windows=windows.kind,
        seed=plan.seed,
        readout=plan.readout,
        **(chosen | tile_facts),
    )
    if match is not None and not chosen.get("st_tokens", False):
        warn_few_genes(match, loaded)
    exists = {name: finite_rows(values) for name, values in (tokens | sources).items()}
    return _ReadOut(parts=parts, exists=exists, unknown=unknown_rows(spots), facts=facts)
