"""The sections of a study embedded together: axes that mean the same in all of them.

The principal components of expression are those of all sections together, and each section is averaged over its own
reach. The sections are gone through several times; here is what is made of all of them, of what each of them gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from storm._inference.adaptive import N_OWN
from storm._inference.alignment import Alignment, align
from storm._inference.joint_steps import (
    Last,
    Look,
    Output,
    Standards,
    embeddings_at,
    look_at,
    of_counts,
    read_measured,
    run_network,
)
from storm._inference.record import warn_few_genes
from storm._inference.study_counts import Measured, common_genes
from storm._loading import StormModel
from storm._types import Batch, Over
from storm.data.components import finite_rows, principal_components
from storm.data.expression_axes import ExpressionAxes, fit_axes_over
from storm.data.normalise import Moments, pooled


def embed_together(over: Over, model: StormModel, *, batch: Batch, seed: int) -> list[Last]:
    """Embed the sections of a study on shared axes; see :func:`storm.tl.embed` for what is shared.

    Parameters
    ----------
    over
        Runs a step of :mod:`~storm._inference.joint_steps` in all sections, wherever they are.
    model
        The model.
    batch
        What is removed between sections.
    seed
        Random seed of ``"harmony"``.

    Returns
    -------
    list of Last
        Of each section what :func:`~storm._inference.joint_steps.finish` makes its embedding of.

    Raises
    ------
    KeyError, ValueError
        As :func:`storm.tl.embed`; the text names the section.
    """
    sections: list[Measured] = over(read_measured)
    genes, columns = common_genes(sections)
    rows = [one.rows for one in sections]

    def over_counts(function: Callable[..., Any], *each: Sequence[Any], **shared: Any) -> list[Any]:
        return over(of_counts, columns, rows, *each, function=function, **shared)

    axes = fit_axes_over(over_counts, centre="each" if batch == "center" else "together")
    looks: list[Look] = over(look_at, columns, range(len(sections)), axes=axes)
    alignment = align([look.smooth for look in looks], batch=batch, seed=seed)
    own = _leading(alignment.parts, [look.known for look in looks])
    use, reason = _encoder_is_at_home(looks)
    if not use:
        warn_few_genes(min((look.gate.match for look in looks), key=lambda match: match.n_shared), model)
    shared = {
        "joint": True,
        "batch": batch,
        "n_sections": len(sections),
        "n_common_genes": len(genes),
        "axes": _digest(axes, genes),
        "st_tokens": use,
        "st_tokens_reason": reason,
    }
    standards = _standards(over, model, looks, alignment, use=use)
    outputs: list[Output] = over(run_network, looks, standards, shared=shared)
    means = {} if alignment.by_mean else _means([output.moments for output in outputs])
    means["st_own"] = np.zeros(own[0].shape[1], dtype=np.float32)  # they are around their mean already
    return [Last(output=output, own=mine, means=means) for output, mine in zip(outputs, own, strict=True)]


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


def _encoder_is_at_home(looks: Sequence[Look]) -> tuple[bool, str]:
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
    over: Over, model: StormModel, looks: Sequence[Look], alignment: Alignment, *, use: bool
) -> list[Standards]:
    """Mean and spread by which each section's embeddings become tokens.

    The spread is that of all sections together. The mean is the common one plus what the alignment takes for a
    technical shift of the section.
    """
    own: dict[str, list[Moments]] = {}
    if use:
        own["st"] = [look.st for look in looks if look.st is not None]
    if all(look.he is not None for look in looks):
        own["he"] = [look.he for look in looks if look.he is not None]
    rows = alignment.paired_rows
    paired: list[dict[str, np.ndarray]] = []
    if own and any(map(len, rows)):
        paired = over(embeddings_at, looks, rows, names=list(own))
    standards: list[dict[str, tuple[np.ndarray, np.ndarray]]] = [{} for _ in looks]
    for name, values in own.items():
        means = np.stack([one.mean for one in values])
        at_pairs = [some[name] for some in paired] or [np.empty((0, means.shape[1]))] * len(looks)
        shifts = alignment.shifts(means, at_pairs)
        trained = (model.statistic(f"{name}_mean"), model.statistic(f"{name}_std"))
        mean, std = pooled(values, shifts, *trained) if model.settings["standardise"] == "section" else trained
        for standard, shift in zip(standards, shifts, strict=True):
            standard[name] = (mean + shift, std)
    return list(standards)


def _means(sections: Sequence[dict[str, Moments]]) -> dict[str, np.ndarray]:
    """Mean of each part over the rows of all sections that have it."""
    means = {}
    for name in sections[0]:
        own = [one[name] for one in sections]
        n = np.array([one.n for one in own])
        total = np.sum([one.mean * one.n for one in own], axis=0)
        means[name] = (total / max(n.sum(), 1)).astype(np.float32)
    return means


def _digest(axes: ExpressionAxes, genes: Sequence[str]) -> str:
    """What tells these axes from others."""
    names = "\n".join(genes[i] for i in axes.genes)
    digest = hashlib.sha256(axes.loadings.round(6).tobytes() + names.encode())
    return digest.hexdigest()[:16]
