"""``storm.tl.fit_expression``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.selection import select
from storm._checks import check_key, check_positive
from storm._inference.device import Compute
from storm._inference.he_features import he_features
from storm._inference.neighbourhoods import section_windows
from storm._inference.tile_cache import model_tiles
from storm._inference.tokens import he_tokens
from storm._loading import ExpressionHead, StormModel, load_model
from storm._types import Field, Precision
from storm.data.genes import Vocabulary, match_genes
from storm.data.normalise import log_normalise
from storm.data.windows import Windows
from storm.pretraining.head import HeadConfig, fit_head
from storm.pretraining.head_folds import Sample, choose, mean_known, score

if TYPE_CHECKING:
    from spatialdata import SpatialData


def fit_expression(
    data: SpatialData | Sequence[SpatialData],
    genes: Sequence[str] | None = None,
    *,
    model: str | StormModel = "storm-mini",
    train: str | np.ndarray | Sequence | None = None,
    groups: Sequence[str] | None = None,
    n_genes: int = 500,
    config: HeadConfig | None = None,
    image_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    field_um: float | None = None,
    field: Field = "exact",
    device: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    precision: Precision = "auto",
) -> ExpressionHead:
    """Train a head that predicts genes from H&E on one's own sections; the network itself stays frozen.

    Parameters
    ----------
    data
        A SpatialData with an H&E image and a table of raw counts, or several.
    genes
        Genes to predict. By default the ``n_genes`` whose log1p-normalised expression varies most over the training
        spots of all sections, among the genes that all of them measure.
    model
        See :func:`storm.tl.embed`.
    train
        Spots to train on: a boolean ``obs`` column, or a mask of length n_obs (with several sections, one per section).
        The others measure the reliability. By default all spots train, and reliability is measured on those that each
        fold holds out.
    groups
        Patient of each section. Folds, by which the strength of the head is chosen, hold out each group of sections in
        turn, or, with a single group, each section, or, with a single section, each fifth of its width, with a gap of
        one window beside it. By default every section is its own group.
    n_genes
        Number of genes if ``genes`` is not given.
    config
        Recipe, a :class:`storm.HeadConfig`; ``HeadConfig()`` by default. It says what of it is the paper's.
    image_key, table_key, shapes_key, coordinate_system, um_per_px, layer
        See :func:`storm.tl.embed`; they apply to every section.
    field_um, field, device, batch_size, precision
        See :func:`storm.tl.embed`; they apply to every section.

    Returns
    -------
    ExpressionHead
        Pass it to :func:`storm.tl.predict_expression`, or keep it with its ``save``. ``reliability`` holds each gene's
        Pearson correlation on spots that were not trained on, averaged over sections.

    Raises
    ------
    ValueError
        If a gene is not measured in every section, no spot is left to train on, or an input does not fit.
    KeyError
        If an element or column does not exist.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *predicting Visium ST from H&E*, eq. 4. The paper splits by
    slide; split by patient where a patient has several.
    """
    sections = list(data) if isinstance(data, (list, tuple)) else [data]
    masks = list(train) if len(sections) > 1 and isinstance(train, (list, tuple)) else [train] * len(sections)
    if not sections or len(masks) != len(sections):
        msg = f"{len(sections)} sections and {len(masks)} training masks; give one mask per section"
        raise ValueError(msg)
    if groups is not None and len(groups) != len(sections):
        msg = f"{len(groups)} groups for {len(sections)} sections; give the patient of each section"
        raise ValueError(msg)
    loaded = load_model(model)
    if config is not None and not isinstance(config, HeadConfig):
        msg = f"config={config!r} is a {type(config).__name__}; give storm.HeadConfig(...), or None for the defaults"
        raise TypeError(msg)
    config = config or HeadConfig()
    compute = Compute.of(device, precision=precision, batch_size=batch_size)
    keys = Keys(
        image_key=image_key,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    field_um = loaded.tile_encoder.field_um if field_um is None else field_um
    check_positive(field_um, name="field_um", unit="µm")
    samples = [
        _read(section, mask, loaded, compute, keys, field_um=field_um, field=field)
        for section, mask in zip(sections, masks, strict=True)
    ]
    if any((sample.usable & sample.train).sum() < 2 for sample in samples):
        msg = "a section has fewer than two spots with H&E and counts to train on; check its training mask and image"
        raise ValueError(msg)
    chosen = _choose(samples, genes, n_genes)
    targets = [_targets(sample, chosen) for sample in samples]
    config, held_out, how_measured = choose(samples, targets, config, groups=groups)
    rows = [sample.usable & sample.train for sample in samples]
    head = fit_head(
        np.concatenate([sample.features[r] for sample, r in zip(samples, rows, strict=True)]),
        np.concatenate([target[r] for target, r in zip(targets, rows, strict=True)]),
        config,
    )
    if train is not None:
        scores = [score(head, s, t, s.usable & ~s.train) for s, t in zip(samples, targets, strict=True)]
        held_out, how_measured = mean_known(scores), "spots outside the training mask"
    notes = {
        "n_sections": len(samples),
        "n_spots": int(sum((s.usable & s.train).sum() for s in samples)),
        "reliability": how_measured,
        "field_um": float(field_um),
        "config": asdict(config),
    }
    return ExpressionHead(
        genes=tuple(chosen),
        reliability=held_out.astype(np.float32),
        module=head,
        model_sha256=loaded.sha256,
        notes=notes,
    )


def _read(
    section: SpatialData,
    mask: str | np.ndarray | Sequence | None,
    model: StormModel,
    compute: Compute,
    keys: Keys,
    *,
    field_um: float,
    field: Field,
) -> Sample:
    selection = select(section, keys, image=True, table=True)
    spots = spots_of(selection, counts=True)
    keep = np.ones(len(spots), bool) if mask is None else _mask(mask, selection.table)
    windows = section_windows(spots)
    tiles = model_tiles(selection.table, spots, model, compute, field_um=field_um, field=field)
    features = he_features(model.network, he_tokens(tiles.values, model), windows, compute)
    counts, measured = spots.expression
    return Sample(features, log_normalise(counts), measured, keep, spots.centres, _reach(windows))


def _reach(windows: Windows) -> float:
    """How far a window reaches, in the units of the centres."""
    return float(np.abs(windows.offsets).max() * windows.pitch)


def _mask(mask, table) -> np.ndarray:
    if isinstance(mask, str):
        check_key(mask, list(table.obs.columns), name="train", where="obs")
        mask = table.obs[mask].to_numpy()
    mask = np.asarray(mask)
    if mask.shape != (table.n_obs,) or mask.dtype != bool:
        msg = f"train has shape {mask.shape} and dtype {mask.dtype}; it must be boolean of shape ({table.n_obs},)"
        raise ValueError(msg)
    return mask


def _choose(samples: list[Sample], genes: Sequence[str] | None, n_genes: int) -> list[str]:
    common = set(samples[0].genes).intersection(*(sample.genes for sample in samples[1:]))
    if genes is not None:
        found = [match_genes(sample.genes, Vocabulary(tuple(genes))) for sample in samples]
        missing = sorted({g for match in found for i, g in enumerate(genes) if i not in set(match.index.tolist())})
        if missing or not len(genes):
            msg = f"{len(missing)} of {len(genes)} genes are not measured in every section: {missing[:10]}"
            raise ValueError(msg)
        return list(genes)
    if not common:
        msg = "the sections have no gene in common; name their genes the same way (symbols or Ensembl ids)"
        raise ValueError(msg)
    ordered = [gene for gene in samples[0].genes if gene in common]
    variance = np.zeros(len(ordered))
    for sample in samples:
        at = {gene: i for i, gene in enumerate(sample.genes)}
        x = sample.expression[sample.usable & sample.train][:, [at[gene] for gene in ordered]]
        mean = np.asarray(x.mean(axis=0)).ravel()
        variance += np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    top = np.sort(np.argsort(-variance, kind="stable")[:n_genes])
    return [ordered[i] for i in top]


def _targets(sample: Sample, genes: list[str]) -> np.ndarray:
    match = match_genes(sample.genes, Vocabulary(tuple(genes)))
    columns = np.empty(len(genes), dtype=int)
    known = np.flatnonzero(match.index >= 0)
    columns[match.index[known]] = known
    return sample.expression[:, columns].toarray()
