"""``storm.tl.fit_expression``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from scipy.sparse import vstack

from storm._bridge.keys import Keys
from storm._bridge.patients import patients_of
from storm._bridge.study import Study, open_study
from storm._checks import check_between, check_choice, check_genes, check_positive, check_whole
from storm._inference.device import Compute
from storm._inference.head_reading import read_head_section, training_mask
from storm._inference.record import warn_species
from storm._loading import ExpressionHead, StormModel, load_model
from storm._logging import logger, warn
from storm._progress import over_sections
from storm._types import Field, Precision, Standardise
from storm.data.genes import as_symbols
from storm.pretraining.head import HeadConfig, fit_head
from storm.pretraining.head_calibration import calibrate
from storm.pretraining.head_sections import (
    choose_recipe,
    held_out_correlation,
    mean_over_sections,
    not_measured,
    targets,
    variable_genes,
    with_common_library,
)

if TYPE_CHECKING:
    from spatialdata import SpatialData


def fit_expression(
    data: SpatialData | Sequence[SpatialData],
    genes: str | Sequence[str] | None = None,
    *,
    model: str | StormModel = "storm-mini",
    train: str | np.ndarray | Sequence | None = None,
    groups: Sequence[Any] | None = None,
    group_key: str | None = None,
    n_genes: int = 500,
    config: HeadConfig | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    field_um: float | None = None,
    field: Field = "exact",
    standardise: Standardise | None = None,
    tissue: str | None = None,
    conformal: bool = True,
    alpha: float = 0.1,
    device: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    precision: Precision = "auto",
) -> ExpressionHead:
    """Train a head that predicts genes from H&E on one's own sections; the network itself stays frozen.

    Parameters
    ----------
    data
        A SpatialData with an H&E image and a table of raw counts, or several; a table may hold several sections.
    genes
        Gene or genes to predict, by symbol or Ensembl id. By default the ``n_genes`` whose log1p-normalised expression
        varies most over the training spots of all sections, among the genes that all of them measure. ``"all"`` takes
        all of these that have a count in a training spot; their expression stays sparse, and predictions for held-out
        spots lie in a scratch file (in ``TMPDIR``) where they are large.
    model
        See :func:`storm.tl.embed`.
    train
        Spots to train on: a boolean ``obs`` column, or a mask of length n_obs (with several sections, one per section).
        The others measure the reliability. By default all spots train, and reliability is measured on those that each
        fold holds out.
    groups
        Patient of each section; a missing one is an error. Folds, by which the strength of the head is chosen, hold
        out each group of sections in turn, or, with a single group, each section, or, with a single section, each fifth
        of its width, with a gap of one window beside it. With several patients the head is the best on them; otherwise
        it is more cautious than the best (see ``keep`` of ``storm.HeadConfig``). By default every section is held out
        in turn, and taken to be of one patient.
    group_key
        Instead of ``groups``: column of ``obs`` with the patient, which holds one value in each section.
    n_genes
        Number of genes if ``genes`` is not given.
    config
        Recipe; ``storm.HeadConfig()`` by default, which documents what of it is the paper's.
    library_key, image_key, table_key, shapes_key, coordinate_system, um_per_px, layer
        See :func:`storm.tl.embed`; they apply to every section.
    field_um, field
        See :func:`storm.tl.embed`; they apply to every section.
    standardise
        Statistics by which the H&E features are standardised. ``"section"``: the mean and spread of each section, which
        removes differences of stain and scanner, but makes the prediction of a spot depend on the other spots of its
        object. ``"training"``: those of the sections that the model was trained on, by which a spot's prediction
        depends on its own surroundings only. By default as the model was trained, ``"section"`` for storm-mini.
    tissue
        What the sections are of, such as ``"HER2+ breast cancer"``: predictions and figures say on what their
        reliability was measured.
    conformal
        Whether to store prediction intervals, from the errors on spots that each fold holds out, by sequencing depth
        (cross-conformal, signed quantiles for each gene), and what tells tiles that are unlike those of the training.
    alpha
        1 − the level of the intervals. It holds for another section of the training patients. For a section of a new
        patient it is nominal with fewer than 1/``alpha`` − 1 patients in ``groups`` (nine for 90 %), from then on it
        holds for those (hierarchical conformal).
    device, batch_size, precision
        See :func:`storm.tl.embed`; they apply to every section.

    Returns
    -------
    ExpressionHead
        Pass it to :func:`storm.tl.predict_expression`, or keep it with its ``save``. ``reliability`` holds each gene's
        Pearson correlation on spots that were not trained on, averaged over sections, ``reliability_min`` the lowest in
        a section. ``intervals`` and ``novelty`` hold the calibration. ``notes`` records the field, the statistics, by
        what the head was chosen (``"chosen_by"``), and the library: where sections measure materially different genes,
        a library size is the counts of the genes that all of them measure, which a warning tells, and ``units`` changes
        accordingly.

    Raises
    ------
    ValueError
        If a gene is not measured in every section or given twice, a group is missing, sections that measure different
        genes have too few in common, no spot is left to train on, the training diverges, or an input does not fit.
    KeyError
        If an element or column does not exist.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *predicting Visium ST from H&E*, eq. 4. The paper splits by
    slide; split by patient where a patient has several.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> train, test = storm.pp.split_along_x(sdata)
    >>> head = storm.tl.fit_expression(sdata, ["EPCAM", "COL1A1"], train=train)
    >>> storm.tl.predict_expression(sdata, head=head)
    """
    n_genes = check_whole(n_genes, name="n_genes")
    if not 0 < check_between(alpha, name="alpha", low=0, high=1) < 1:
        msg = f"alpha={alpha!r} must lie between 0 and 1, such as 0.1 for intervals of 90 %"
        raise ValueError(msg)
    if standardise is not None:
        check_choice(standardise, get_args(Standardise), name="standardise")
    every = isinstance(genes, str) and genes == "all"
    wanted = None if genes is None or every else check_genes(genes)
    loaded = load_model(model)
    if config is not None and not isinstance(config, HeadConfig):
        msg = f"config={config!r} is a {type(config).__name__}; give storm.HeadConfig(...), or None for the defaults"
        raise TypeError(msg)
    config = config or HeadConfig()
    compute = Compute.of(device, precision=precision, batch_size=batch_size)
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    field_um = loaded.tile_encoder.field_um if field_um is None else field_um
    check_positive(field_um, name="field_um", unit="µm")
    by = standardise or loaded.settings["standardise"]
    study = open_study(data, keys, library_key=library_key, image_key=image_key, image=True, writable=False)
    patients = patients_of(study, groups, group_key)
    parts = []
    for section, mask in zip(over_sections(study), _masks(study, train), strict=True):
        with section.named():
            part = read_head_section(
                section, mask, loaded, compute, wanted=wanted, field_um=field_um, field=field, by=by
            )
            parts.append(part)
    warn_species([part.names for part in parts], what="the sections")
    parts, shares = with_common_library(parts)
    library = parts[0].library
    if library.genes is not None:
        msg = (
            f"the sections measure different genes: {library} hold {min(shares):.0%} to {max(shares):.0%} of their "
            f"counts. Library sizes are counts of these genes only, so that the head predicts {library.units}; leave "
            "out the sections with the smaller panel to predict counts per 10,000 of all genes"
        )
        warn(msg)
    if any(len(part.rows) < 2 for part in parts):
        msg = "a section has fewer than two spots with H&E and counts to train on; check its training mask and image"
        raise ValueError(msg)
    chosen = variable_genes(parts, None if every else n_genes) if wanted is None else wanted
    symbols = as_symbols(chosen, loaded.vocabulary)
    if missing := [chosen[i] for i in not_measured(parts, symbols)]:
        msg = f"{len(missing)} of {len(chosen)} genes are not measured in every section: {sorted(missing)[:10]}"
        raise ValueError(msg)
    expression = [targets(part, symbols) for part in parts]
    recipe = choose_recipe(parts, expression, config, groups=patients)
    config, reliability, lowest, held_out = recipe.config, recipe.reliability, recipe.lowest, recipe.held_out
    head = fit_head(
        np.concatenate([part.features[part.rows] for part in parts]),
        vstack([values[part.rows] for part, values in zip(parts, expression, strict=True)], format="csr"),
        config,
    )
    if train is not None:
        scores = [held_out_correlation(head, part, values) for part, values in zip(parts, expression, strict=True)]
        reliability, held_out = mean_over_sections(scores), "spots outside the training mask"
        lowest = np.nanmin(np.where(np.isnan(scores), np.inf, scores), axis=0)
        lowest = np.where(np.isinf(lowest), np.nan, lowest)
    intervals, novelty = None, None
    if conformal:
        intervals, novelty = calibrate(parts, symbols, recipe, patients=patients, alpha=alpha, seed=config.seed)
        if intervals is None:
            logger.warning("there are too few held-out spots for intervals with alpha=%g: the head has none", alpha)
    notes = {
        "tissue": None if tissue is None else str(tissue),
        "n_sections": len(parts),
        "n_spots": sum(len(part.rows) for part in parts),
        "reliability": held_out,
        "chosen_by": recipe.chosen_by,
        "field_um": float(field_um),
        "standardise": by,
        "library": str(library),
        "library_genes": None if library.genes is None else list(library.genes),
        "units": library.units,
        "config": asdict(config),
    }
    return ExpressionHead(
        genes=tuple(chosen),
        reliability=reliability.astype(np.float32),
        reliability_min=lowest.astype(np.float32),
        n_sections=len(parts),
        n_patients=recipe.n_patients,
        intervals=intervals,
        novelty=novelty,
        module=head,
        model_sha256=loaded.sha256,
        notes=notes,
    )


def _masks(study: Study, train: Any) -> list[Any]:
    """The training mask of each section, as the user gave it: one for each object, or one for all."""
    n = len(study.works)
    masks = list(train) if n > 1 and isinstance(train, list | tuple) else [train] * n
    if len(masks) != n:
        msg = f"{n} sections and {len(masks)} training masks; give one mask per section"
        raise ValueError(msg)
    by_work = dict(zip(map(id, study.works), masks, strict=True))
    out = []
    for section in study:
        mask = by_work[id(section.work)]
        if section.member is not None and mask is not None and not isinstance(mask, str):
            mask = training_mask(mask, section.work.table)[section.member.rows]
        out.append(mask)
    return out
