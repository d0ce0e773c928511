"""What is done in each section of a study that is embedded together, one step after the other.

A step knows one section, and may run in another process than the step before: what it returns is small, and what is
large it leaves in the section's journal. So one section decides about the memory, and a killed run goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.counts import read_counts
from storm._bridge.read import spots_of
from storm._inference.adaptive import Gate, choices, gate
from storm._inference.combine import combine, in_order
from storm._inference.record import provenance, unknown_rows, wants_tiles
from storm._inference.section_embedding import EmbedPlan, SectionEmbedding, read_section
from storm._inference.study_counts import Measured, measured
from storm._inference.tile_cache import held_result, model_tiles
from storm._inference.tokens import st_embeddings
from storm._inference.windows import run_windows
from storm._keys import tiles_key
from storm._progress import over_sections
from storm._types import Over
from storm.data.components import finite_rows
from storm.data.expression_axes import ExpressionAxes
from storm.data.journal import Journal
from storm.data.normalise import CLIP, Moments, moments, standardise
from storm.data.reach import Reach, find_reach, gaussian_mean

if TYPE_CHECKING:
    from storm._bridge.study import Section

#: Mean and spread by which the embeddings of a section become tokens, per modality.
Standards = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the study, how it is embedded, and where it leaves what is large."""

    section: Section
    plan: EmbedPlan
    journal: Journal


def one_by_one(parts: Sequence[Part]) -> Over:
    """Run steps in this process, in one section after the other; an error names the section."""

    def over(step: Callable[..., Any], *each: Sequence[Any], **shared: Any) -> list[Any]:
        results = []
        desc = _LONG.get(step)
        for part, *own in zip(over_sections(parts, desc=desc) if desc else parts, *each, strict=True):
            with part.section.named():
                results.append(step(part, *own, **shared))
        return results

    return over


def read_measured(part: Part) -> Measured:
    """Read which genes a section measures, and where its rows are."""
    model = part.plan.model
    spots = spots_of(part.section.open(), counts=True, vocabulary=getattr(model.expression, "vocabulary", None))
    return measured(spots, model, name=part.section.name, he=wants_tiles(spots, part.plan.modality))


def of_counts(
    part: Part, columns: np.ndarray, rows: np.ndarray, *own: Any, function: Callable[..., Any], **shared: Any
) -> Any:
    """A function of a section's counts of the common genes, and of its rows with a place."""
    selection = part.section.open(image=False)
    assert selection.table is not None  # its counts have been read before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say was said when it was read first
        vocabulary = getattr(part.plan.model.expression, "vocabulary", None)
        counts, _ = read_counts(selection.table, selection.keys.layer, vocabulary=vocabulary)
    return function(counts[:, columns], rows, *own, **shared)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is kept of a section from the first look at it on.

    Attributes
    ----------
    known
        Rows with counts and a place, bool, shape (n,).
    smooth
        Scores on the common axes, averaged over the section's reach, float32, shape (n, p).
    reach
        The section's reach.
    gate
        Whether the encoder is at home there; without its tokens.
    st, he
        Moments of the encoders' embeddings; ``None`` without them.
    tiles
        Provenance of the tile embeddings, which lie in the journal or in the table; empty without H&E.
    """

    known: np.ndarray
    smooth: np.ndarray
    reach: Reach
    gate: Gate
    st: Moments | None
    he: Moments | None
    tiles: dict[str, Any]


def look_at(part: Part, columns: np.ndarray, k: int, *, axes: ExpressionAxes) -> Look:
    """Scores of section k on the common axes at its own reach, its H&E, and the moments of its embeddings."""
    plan, model = part.plan, part.plan.model
    selection = part.section.open()
    spots, windows = read_section(selection, plan)
    scores = axes.scores(spots.expression[0][:, columns], section=k)
    scores[~spots.placed] = np.nan
    reach = find_reach(scores, spots.centres, pitch=windows.pitch)
    decision = gate(reach, spots, windows, model)
    tiles = None
    if wants_tiles(spots, plan.modality):
        tiles = model_tiles(
            selection.table, spots, model, plan.compute, field_um=plan.field_um, field=plan.field, journal=part.journal
        )
    return Look(
        known=finite_rows(scores),
        smooth=gaussian_mean(scores, spots.centres, sigma=reach.sigma * windows.pitch),
        reach=reach,
        gate=replace(decision, tokens=None),
        st=None if decision.tokens is None and decision.reach is None else moments(st_embeddings(spots, model)),
        he=None if tiles is None else moments(tiles.values),
        tiles={} if tiles is None else tiles.record(),
    )


def embeddings_at(part: Part, look: Look, rows: np.ndarray, *, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The encoders' embeddings of some rows, per modality, shape (rows, d)."""
    some = {}
    if "st" in names:
        some["st"] = np.empty((0, len(_mean_of(look.st))))
        if len(rows):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                spots, _ = read_section(part.section.open(), part.plan)
            some["st"] = st_embeddings(spots, part.plan.model)[rows]
    if "he" in names:
        some["he"] = np.array(_tile_values(part, look)[rows])
    return some


def _mean_of(one: Moments | None) -> np.ndarray:
    assert one is not None  # the modality is there
    return one.mean


def _tile_values(part: Part, look: Look) -> np.ndarray:
    """Tile embeddings, float32, shape (n, d), from where the first look left or found them."""
    if not look.tiles["tiles_reused"]:
        return part.journal.values("tiles")
    held = held_result(part.section.open(image=False).table, tiles_key(part.plan.model.tile_encoder.name))
    assert held is not None  # the first look took them from there
    return np.asarray(held[0], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is kept of a section whose windows have been through the network: the output itself is in the journal.

    Attributes
    ----------
    widths
        Columns of each part of the output, in order; empty if the network takes no part.
    moments
        Of each part.
    known
        Rows that have a token, or counts, per modality, bool, shape (n,).
    unknown
        See :class:`~storm._inference.section_embedding.SectionEmbedding`.
    facts
        Provenance.
    """

    widths: dict[str, int]
    moments: dict[str, Moments]
    known: dict[str, np.ndarray]
    unknown: dict[str, np.ndarray]
    facts: dict[str, Any]


def run_network(part: Part, look: Look, standards: Standards, *, shared: Mapping[str, Any]) -> Output:
    """Run the network over the windows of a section; ``shared`` is what the provenance of all sections says."""
    plan = part.plan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spots, windows = read_section(part.section.open(), plan)
    tokens, known = {}, {"st": look.known}
    if "he" in standards:
        mean, std = standards["he"]
        tokens["he"] = standardise(_tile_values(part, look), mean, std, within=False, clip=CLIP)
        known["he"] = finite_rows(tokens["he"])
    if "st" in standards:
        mean, std = standards["st"]
        tokens["st"] = standardise(st_embeddings(spots, plan.model), mean, std, within=False, isotropic=True)
    outputs = {}
    if tokens:
        outputs = run_windows(
            plan.model.network,
            tokens,
            windows,
            plan.compute,
            readout="adaptive",
            journal=part.journal,
            facts={"model": plan.model.sha256},
        )
    facts = provenance(
        plan.model,
        spots,
        plan.compute,
        match=look.gate.match,
        modality="both" if "he" in tokens else "st",
        windows=windows.kind,
        seed=plan.seed,
        readout=plan.readout,
        **(choices(look.reach, look.gate, windows, um_known=spots.um_known) | look.tiles | dict(shared)),
    )
    return Output(
        widths={name: values.shape[1] for name, values in outputs.items()},
        moments={name: moments(values) for name, values in outputs.items()},
        known=known,
        unknown=unknown_rows(spots),
        facts=facts,
    )


@dataclass(frozen=True, kw_only=True)
class Last:
    """What the last step needs of all that came before.

    Attributes
    ----------
    output
        Of the network.
    own
        The section's leading components, shape (n, ≤ 10).
    means
        What the parts of the network's output are centred by; those that are not there have the section's own mean.
    """

    output: Output
    own: np.ndarray
    means: Mapping[str, np.ndarray]


def finish(part: Part, last: Last) -> SectionEmbedding:
    """Put the parts of a section's embedding side by side. The section itself is not read again."""
    output, parts = last.output, {}
    if output.widths:
        whole = part.journal.values("windows")
        ends = np.cumsum(list(output.widths.values()))
        parts = {name: whole[:, end - d : end] for (name, d), end in zip(output.widths.items(), ends, strict=True)}
    parts["st_own"] = last.own
    vector, by_modality = combine(parts, output.known, part.plan.model.settings["modality_weights"], means=last.means)
    layout = {key: parts[key].shape[1] for key in in_order(parts)}
    return SectionEmbedding(
        vector=vector, by_modality=by_modality, unknown=output.unknown, facts=output.facts, layout=layout
    )


#: Steps that take long, and what they do.
_LONG: dict[Callable[..., Any], str] = {
    look_at: "sections read and encoded",
    run_network: "sections through the network",
}
