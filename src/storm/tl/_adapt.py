"""``storm.tl.adapt``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.study import Section, open_study
from storm._checks import check_between, check_choice, check_positive, check_whole
from storm._inference.device import Compute
from storm._inference.neighbourhoods import section_windows
from storm._inference.record import wanted_counts, wanted_image, wants_counts, wants_tiles
from storm._inference.tile_cache import model_tiles
from storm._inference.tokens import he_tokens, st_tokens
from storm._interrupt import says_how_to_go_on
from storm._loading import READOUTS, StormModel, load_model
from storm._logging import warn
from storm._progress import over_sections
from storm._types import Field, Modality, Precision, Readout, WindowKind
from storm.data.genes import Vocabulary, as_symbols
from storm.data.libraries import Library, shared_library
from storm.data.spots import Spots
from storm.data.windows import Windows
from storm.encoders import get_encoder
from storm.pretraining.adaptation import (
    AdaptationConfig,
    expression_targets,
    fit_adaptation,
    present,
    relative_to_mean,
)
from storm.pretraining.adaptation_start import starting_model, with_statistics
from storm.pretraining.config_groups import OptimiserConfig, check_lr
from storm.pretraining.sections import TrainingSection

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Largest share of a section that may be held out.
_MOST_HELD_OUT = 0.5
#: Fewer spots than this are too few to learn from.
_MIN_SPOTS = 50
#: Number of steps that are aimed at where no number of epochs is given.
_STEPS = 1000
#: Fewest and most epochs that these steps may take.
_EPOCHS = (10, 60)


@dataclass(frozen=True)
class _Section:
    """A section as it was read: its spots and windows, the table that may hold tile embeddings, and its modalities."""

    spots: Spots
    table: AnnData | None
    windows: Windows
    he: bool
    st: bool


@says_how_to_go_on("nothing of the adaptation is kept; the same call starts it again from the beginning")
def adapt(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    *,
    model: str | StormModel | None = "storm-mini",
    expression: Literal["auto", "keep", "refit"] = "auto",
    n_genes: int = 2000,
    modality: Modality = "auto",
    batch: Literal["section", "none"] = "section",
    epochs: int | None = None,
    patience: int | None = 15,
    held_out: float = 0.15,
    lr: float = 1e-3,
    batch_size: int = 64,
    readout: Readout | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    field_um: float | None = None,
    field: Field = "exact",
    window: WindowKind = "auto",
    radius_um: float | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 0,
) -> StormModel:
    """Fit a model on one's own sections, without labels: by reconstructing masked spots.

    The spatial encoder and its decoders are trained with the objective of pretraining (eq. 3), on tile embeddings that
    are computed once, or taken from where :func:`encode_tiles` left them. One contiguous block of each section, with a
    gap around it, is not trained on: training ends when its masked spots are no longer rebuilt better, and the weights
    of the best epoch are kept.

    Parameters
    ----------
    data
        A section as in :func:`storm.tl.embed`, or several, in a list or in one table, which are fitted jointly.
    model
        Where to start: a name, a folder, a loaded model; ``None`` starts from random weights of the size of storm-mini,
        with the packaged tile encoder. For another tile encoder, give what :func:`storm.build_model` returns.
    expression
        ``"keep"`` the model's expression encoder and genes, ``"refit"`` them on these sections, or ``"auto"``: refit if
        the model is untrained or a section has too few of its genes. A refitted encoder is principal components of what
        varies within sections; the layers that read and write expression then start anew.
    n_genes
        Number of genes of a refitted encoder: those that vary most.
    modality
        ``"both"``, ``"he"``, ``"st"``, or ``"auto"``: what each section has.
    batch
        Unit whose mean and spread are removed before anything is learned. ``"section"``: each section by itself, which
        removes differences of stain, scanner and depth. ``"none"``: all sections, and all that are embedded later, are
        standardised by the statistics of these sections together, so that differences between them stay.
    epochs
        Largest number of passes over all windows; by default as many as make 1,000 steps, from 10 to 60.
    patience
        Stops after so many epochs without improvement on the held-out block; ``None`` never stops early. The best
        epoch's weights are kept either way.
    held_out
        Share of each section's spots in the block that is not trained on. 0 trains on all spots for all epochs, and
        keeps the last weights.
    lr
        Learning rate of AdamW at the end of a warm-up of a tenth of the steps, at most 1; it then falls as a cosine.
    batch_size
        Windows per step.
    readout
        Default read-out of the adapted model; by default that of ``model``.
    library_key, image_key, table_key, shapes_key, coordinate_system, um_per_px, layer
        See :func:`storm.tl.embed`; they apply to every section.
    field_um, field, window, radius_um
        See :func:`storm.tl.embed`; they apply to every section, and should be the same when it is embedded.
    device, precision
        See :func:`storm.tl.embed`; ``precision`` is the tile encoder's, the training itself is fp32.
    seed
        Random seed for the block, the masks, the order and new weights. Torch's own random numbers are left alone. The
        same seed gives the same weights on the same kind of machine with as many threads.

    Returns
    -------
    StormModel
        To pass on as ``model=``, or to ``save``. It has no expression head, because a head reads the tokens of the
        network that it was trained on: train one with :func:`fit_expression`. A modality that no section has stays as
        it was in ``model``, and weighs nothing in the embeddings of a model from scratch. Its ``card`` records the
        model that it started from, the number of spots, the losses of every epoch and, if a part was held out, the loss
        there at the best epoch beside that of the training spots' mean. ``card["library"]`` records the genes whose
        counts the expression was normalised by: where sections measure materially different genes, those that all of
        them measure, and a warning tells. ``data`` is not changed.

    Raises
    ------
    ValueError
        If there are fewer than 50 spots, neither counts nor an image, too few genes of a model that is to keep its own,
        sections without enough genes in common, a training that diverges, or anything that :func:`storm.tl.embed`
        refuses.
    KeyError
        If an element or layer does not exist.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *Decoders and pretraining*, eq. 3. Fitting on one's own
    sections, and the held-out block, are ours.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> model = storm.tl.adapt(sdata, modality="st", epochs=2)
    >>> storm.tl.embed(sdata, model=model, modality="st")
    """
    started = time.perf_counter()
    check_choice(modality, get_args(Modality), name="modality")
    check_choice(expression, ("auto", "keep", "refit"), name="expression")
    check_choice(window, get_args(WindowKind), name="window")
    check_choice(batch, ("section", "none"), name="batch")
    epochs = None if epochs is None else check_whole(epochs, name="epochs")
    patience = None if patience is None else check_whole(patience, name="patience")
    batch_size = check_whole(batch_size, name="batch_size")
    n_genes = check_whole(n_genes, name="n_genes")
    seed = check_whole(seed, name="seed", least=0)
    check_lr(lr)
    check_between(held_out, name="held_out", low=0, high=_MOST_HELD_OUT)
    if readout is not None:
        check_choice(readout, READOUTS, name="readout")
    start = None if model is None else load_model(model)
    compute = Compute.of(device, precision=precision)
    tile_encoder = get_encoder("stain-texture") if start is None else start.tile_encoder
    field_um = tile_encoder.field_um if field_um is None else field_um
    check_positive(field_um, name="field_um", unit="µm")
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    study = open_study(
        data,
        keys,
        library_key=library_key,
        image_key=image_key,
        image=wanted_image(modality),
        field_um=None if modality == "st" else field_um,
        writable=False,
        mixed=True,
    )
    sections = []
    for section in study:
        with section.named():
            sections.append(_read(section, modality=modality, window=window, radius_um=radius_um))
    _check_size(sum(int(section.spots.placed.sum()) for section in sections), what="with a place")
    known = Vocabulary(()) if start is None else start.vocabulary
    sections = [_by_symbol(section, known) if section.st else section for section in sections]
    library = _common_library(sections)
    base, refitted = starting_model(
        start,
        [section.spots for section in sections if section.st],
        expression=expression,
        n_genes=n_genes,
        library=library,
        seed=seed,
    )
    raw = [
        model_tiles(section.table, section.spots, base, compute, field_um=field_um, field=field).values
        if section.he
        else None
        for section in over_sections(sections)
    ]
    if not base.trained:
        base = with_statistics(base, "he", [values for values in raw if values is not None])
    if batch == "none":
        base = _together(base, sections, raw)
    ready = [_training_section(section, values, base, library) for section, values in zip(sections, raw, strict=True)]
    if base.config.st_likelihood != "nb":
        ready = relative_to_mean(ready, by_section=batch == "section")
    if epochs is None:
        steps = sum(-(-int(section.spots.placed.sum()) // batch_size) for section in sections)
        epochs = int(np.clip(round(_STEPS / steps), *_EPOCHS))
    n_spots = sum(int(present(section).sum()) for section in ready)
    _check_size(n_spots, what="with a place and with counts or a tile inside the image")
    network, facts = fit_adaptation(
        base.network,
        ready,
        [section.spots.centres for section in sections],
        AdaptationConfig(
            optimiser=OptimiserConfig(epochs=epochs, warmup_epochs=epochs / 10, batch_size=batch_size, lr=lr),
            patience=patience,
            held_out=held_out,
            seed=seed,
        ),
        device=compute.device,
    )
    card = {
        "summary": f"adapted on {len(sections)} section(s), {n_spots} spots",
        "adapted_from": None if start is None else {"name": start.name, "sha256": start.sha256},
        "sections": len(sections),
        "spots": n_spots,
        "expression": f"refitted on {len(base.vocabulary)} genes" if refitted else "kept",
        "library": str(library),
        **facts,
        "lr": float(lr),
        "seed": int(seed),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if start is not None and "trained_on" in start.card:
        card["trained_on"] = start.card["trained_on"]
    settings = {name: value for name, value in base.settings.items() if name != "trained"}
    settings["readout"] = readout or settings["readout"]
    if not base.trained:
        # The decoder of a modality that was not seen is as random as it was.
        seen = {"he": any(section.he for section in sections), "st": any(section.st for section in sections)}
        weights = settings["modality_weights"]
        settings["modality_weights"] = {name: weights.get(name, 1.0) if known else 0.0 for name, known in seen.items()}
    name = "storm-mini, from scratch" if start is None else f"{start.name}, adapted"
    return replace(base, name=name, network=network, settings=settings, head=None, card=card)


def _read(section: Section, *, modality: Modality, window: WindowKind, radius_um: float | None) -> _Section:
    selection = section.open()
    spots = spots_of(selection, counts=wanted_counts(modality))
    he, st = wants_tiles(spots, modality), wants_counts(spots, modality)
    windows = section_windows(spots, kind=window, radius_um=radius_um)
    return _Section(spots, selection.table, windows, he, st)


def _check_size(n: int, *, what: str) -> None:
    if n < _MIN_SPOTS:
        msg = (
            f"{n} spots {what} are too few to fit a model on (at least {_MIN_SPOTS}); use a packaged model as it is, "
            "or give more sections"
        )
        raise ValueError(msg)


def _by_symbol(section: _Section, known: Vocabulary) -> _Section:
    """The section with its genes by symbol where the model lists their Ensembl id."""
    _, genes = section.spots.expression
    return replace(section, spots=replace(section.spots, genes=np.array(as_symbols(genes, known))))


def _common_library(sections: list[_Section]) -> Library:
    """Choose the genes by which all sections are normalised; a warning tells if these are not all."""
    parts = [section.spots.expression for section in sections if section.st]
    if not parts:
        return Library()
    library, shares = shared_library(
        [genes.tolist() for _, genes in parts],
        [np.asarray(counts.sum(axis=0), dtype=np.float64).ravel() for counts, _ in parts],
    )
    if library.genes is not None:
        msg = (
            f"the sections measure different genes: {library} hold {min(shares):.0%} to {max(shares):.0%} of their "
            "counts. The expression to be rebuilt is normalised by the counts of these genes only"
        )
        warn(msg)
    return library


def _training_section(
    section: _Section, tiles: np.ndarray | None, model: StormModel, library: Library
) -> TrainingSection:
    he = None if tiles is None else he_tokens(tiles, model)
    if not section.st:
        return TrainingSection("", section.windows, he, None, None, None)
    st, _ = st_tokens(section.spots, model)
    counts, genes = section.spots.expression
    columns = library.columns(genes)
    if columns is not None:
        # A spot without counts in the common genes has no target.
        st = np.where(np.asarray(counts[:, columns].sum(axis=1)) > 0, st, np.float32(np.nan))
    return TrainingSection("", section.windows, he, st, *expression_targets(section.spots, model, library))


def _together(model: StormModel, sections: list[_Section], tiles: list[np.ndarray | None]) -> StormModel:
    """The model with these sections' common statistics, by which it standardises from now on."""
    expression = []
    for section in sections:
        if section.st:
            counts, genes = section.spots.expression
            expression.append(model.expression.encode(counts, genes.tolist(), centres=section.spots.centres))
    model = with_statistics(model, "he", [values for values in tiles if values is not None])
    model = with_statistics(model, "st", expression)
    return replace(model, settings=model.settings | {"standardise": "training"})
