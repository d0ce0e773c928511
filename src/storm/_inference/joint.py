"""The sections of a study embedded together: axes that mean the same in all of them.

The principal components of expression are those of all sections together, and each section is averaged over its own
reach. The sections are gone through several times, one after the other; what is kept between is small.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from storm._inference.adaptive import N_OWN, Gate, choices, gate
from storm._inference.alignment import Alignment, align
from storm._inference.combine import combine
from storm._inference.record import provenance, wants_tiles, warn_few_genes
from storm._inference.section_embedding import EmbedPlan, SectionEmbedding, read_section
from storm._inference.study_counts import StudyCounts, read_study
from storm._inference.tile_cache import TileEmbedding, model_tiles
from storm._inference.tokens import st_embeddings
from storm._inference.windows import run_windows
from storm.data.components import finite_rows, principal_components
from storm.data.expression_axes import ExpressionAxes, fit_axes
from storm.data.journal import Journal
from storm.data.normalise import CLIP, Moments, moments, pooled, standardise
from storm.data.reach import Reach, find_reach, gaussian_mean
from storm.data.spots import Spots
from storm.data.windows import Windows

if TYPE_CHECKING:
    from storm._bridge.study import Section, Study


@dataclass(frozen=True, kw_only=True)
class _Look:
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
        Tile embeddings; ``None`` without H&E.
    """

    known: np.ndarray
    smooth: np.ndarray
    reach: Reach
    gate: Gate
    st: Moments | None
    he: Moments | None
    tiles: TileEmbedding | None


def embed_together(
    study: Study, plan: EmbedPlan, journals: Sequence[Journal]
) -> Iterator[tuple[Section, SectionEmbedding]]:
    """Embed the sections of a study on shared axes; see :func:`storm.tl.embed` for what is shared.

    Parameters
    ----------
    study
        The sections, all with counts.
    plan
        How.
    journals
        That of each section.

    Yields
    ------
    section : Section
    result : SectionEmbedding

    Raises
    ------
    KeyError, ValueError
        As :func:`storm.tl.embed`; the text names the section.
    """
    counts = read_study(study, plan.model)
    axes = fit_axes(counts, centre="each" if plan.batch == "center" else "together")
    looks = []
    for k, (section, journal) in enumerate(zip(study, journals, strict=True)):
        with section.named():
            looks.append(_first_look(section, plan, journal, counts, axes, k))
    alignment = align([look.smooth for look in looks], batch=plan.batch, seed=plan.seed)
    own = _leading(alignment.parts, [look.known for look in looks])
    use, reason = _encoder_is_at_home(looks)
    if not use:
        warn_few_genes(min((look.gate.match for look in looks), key=lambda match: match.n_shared), plan.model)
    standards = _standards(study, plan, looks, alignment, use=use)
    read, parts = [], []
    for k, (section, journal) in enumerate(zip(study, journals, strict=True)):
        with section.named():
            standard = {name: of_sections[k] for name, of_sections in standards.items()}
            spots, windows, he, outputs = _outputs(section, plan, journal, looks[k], standard)
        read.append((spots, windows, he))
        parts.append(outputs | {"st_own": own[k]})
    means = {} if alignment.by_mean else _means(parts)
    means["st_own"] = np.zeros(own[0].shape[1], dtype=np.float32)  # they are around their mean already
    shared = {
        "joint": True,
        "batch": plan.batch,
        "n_sections": len(study),
        "n_common_genes": len(counts.genes),
        "axes": _digest(axes, counts.genes),
        "st_tokens": use,
        "st_tokens_reason": reason,
    }
    for k, section in enumerate(study):
        (spots, windows, tokens), look = read[k], looks[k]
        sources = tokens | {"st": np.where(look.known, 0.0, np.nan)[:, None]}
        vector, by_modality = combine(parts[k], sources, plan.model.settings["modality_weights"], means=means)
        parts[k].clear()
        chosen = choices(look.reach, look.gate, windows, um_known=spots.um_known)
        facts = provenance(
            plan.model,
            spots,
            plan.compute,
            match=look.gate.match,
            tiles=look.tiles,
            modality="both" if len(by_modality) == 2 else next(iter(by_modality)),
            windows=windows.kind,
            seed=plan.seed,
            readout=plan.readout,
            **(chosen | shared),
        )
        yield section, SectionEmbedding(vector=vector, by_modality=by_modality, spots=spots, facts=facts)


def _first_look(
    section: Section, plan: EmbedPlan, journal: Journal, counts: StudyCounts, axes: ExpressionAxes, k: int
) -> _Look:
    """Scores of a section on the common axes at its own reach, and the moments of its embeddings."""
    model = plan.model
    selection = section.open()
    spots, windows = read_section(selection, plan)
    scores = axes.scores(counts.of(spots, k), section=k)
    scores[~spots.placed] = np.nan
    reach = find_reach(scores, spots.centres, pitch=windows.pitch)
    decision = gate(reach, spots, windows, model)
    tiles = None
    if wants_tiles(spots, plan.modality):
        tiles = model_tiles(
            selection.table, spots, model, plan.compute, field_um=plan.field_um, field=plan.field, journal=journal
        )
    return _Look(
        known=finite_rows(scores),
        smooth=gaussian_mean(scores, spots.centres, sigma=reach.sigma * windows.pitch),
        reach=reach,
        gate=replace(decision, tokens=None),
        st=None if decision.tokens is None and decision.reach is None else moments(st_embeddings(spots, model)),
        he=None if tiles is None else moments(tiles.values),
        tiles=tiles,
    )


def _leading(parts: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Leading components of the scores of all sections together, with a mean square of 1 per row."""
    whole = np.concatenate(parts)
    finite, fit = finite_rows(whole), np.concatenate(known)
    out = np.full((len(whole), min(N_OWN, whole.shape[1])), np.nan, dtype=np.float32)
    if (finite & fit).any():
        leading, _ = principal_components(whole, finite, out.shape[1], fit=fit)
        size = np.sqrt(np.square(leading[fit[finite]]).sum(axis=1).mean())
        out[finite] = leading / np.float32(max(size, 1e-8))
    return np.split(out, np.cumsum([len(part) for part in parts])[:-1])


def _encoder_is_at_home(looks: Sequence[_Look]) -> tuple[bool, str]:
    """Whether the network takes part in all sections, and why: the axes are the same in all of them.

    What the encoder predicts better, or worse, than the sections' own scores is weighted by the spots, so that a small
    or poor section does not decide for the others.
    """
    if any(look.st is None for look in looks):
        return False, "left out: a section has too few of the model's genes"
    measured = [look for look in looks if look.gate.reach is not None]
    if not measured:
        return True, "used: the encoder reads neighbours, so it was not measured"
    gains = [
        (look.gate.reach.best - max(look.reach.best, 0.0)) * look.known.sum() for look in measured if look.gate.reach
    ]
    if float(np.sum(gains)) > 0:
        return True, "used: the encoder is at home in the sections together"
    return False, "left out: in the sections together their own components tell more than the encoder's"


def _standards(
    study: Study, plan: EmbedPlan, looks: Sequence[_Look], alignment: Alignment, *, use: bool
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Mean and spread by which each section's embeddings become tokens, per modality.

    The spread is that of all sections together. The mean is the common one plus what the alignment takes for a
    technical shift of the section.
    """
    model = plan.model
    rows = alignment.paired_rows
    paired: dict[str, list[np.ndarray]] = {}
    own: dict[str, list[Moments]] = {}
    if use:
        own["st"] = [look.st for look in looks if look.st is not None]
        paired["st"] = [np.empty((0, len(own["st"][0].mean)))] * len(looks)
        for k, section in enumerate(study):
            if len(rows[k]):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what there is to say was said at the first look
                    spots, _ = read_section(section.open(), plan)
                paired["st"][k] = st_embeddings(spots, model)[rows[k]]
    if all(look.he is not None and look.tiles is not None for look in looks):
        own["he"] = [look.he for look in looks if look.he is not None]
        paired["he"] = [
            np.asarray(look.tiles.values[at]) for look, at in zip(looks, rows, strict=True) if look.tiles is not None
        ]
    standards = {}
    for name, values in own.items():
        shifts = alignment.shifts(np.stack([one.mean for one in values]), paired[name])
        trained = (model.statistic(f"{name}_mean"), model.statistic(f"{name}_std"))
        mean, std = pooled(values, shifts, *trained) if model.settings["standardise"] == "section" else trained
        standards[name] = [(mean + shift, std) for shift in shifts]
    return standards


def _outputs(
    section: Section,
    plan: EmbedPlan,
    journal: Journal,
    look: _Look,
    standards: dict[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[Spots, Windows, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The section as it was read, its H&E tokens, and the network's output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spots, windows = read_section(section.open(), plan)
    tokens = {}
    if "he" in standards and look.tiles is not None:
        mean, std = standards["he"]
        tokens["he"] = standardise(look.tiles.values, mean, std, within=False, clip=CLIP)
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
            journal=journal,
            facts={"model": plan.model.sha256},
        )
    return spots, windows, {name: values for name, values in tokens.items() if name == "he"}, outputs


def _means(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean of each part over the rows of all sections that have it."""
    means = {}
    for name in parts[0]:
        own = [moments(part[name]) for part in parts]
        n = np.array([one.n for one in own])
        total = np.sum([one.mean * one.n for one in own], axis=0)
        means[name] = (total / max(n.sum(), 1)).astype(np.float32)
    return means


def _digest(axes: ExpressionAxes, genes: Sequence[str]) -> str:
    """What tells these axes from others."""
    names = "\n".join(genes[i] for i in axes.genes)
    digest = hashlib.sha256(axes.loadings.round(6).tobytes() + names.encode())
    return digest.hexdigest()[:16]
