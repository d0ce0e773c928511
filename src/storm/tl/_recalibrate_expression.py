"""``storm.tl.recalibrate_expression``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.study import open_study
from storm._checks import check_between, check_choice, check_positive
from storm._inference.device import Compute
from storm._inference.head_reading import read_head_section
from storm._loading import ExpressionHead, StormModel, load_model
from storm._logging import warn
from storm._types import Field, Precision
from storm.data.genes import as_symbols
from storm.data.libraries import Library
from storm.pretraining.head import apply_head
from storm.pretraining.head_calibration import own_intervals
from storm.pretraining.head_sections import not_measured

if TYPE_CHECKING:
    from spatialdata import SpatialData


def recalibrate_expression(
    head: ExpressionHead,
    data: SpatialData,
    spots: str | np.ndarray | Sequence[bool] | None = None,
    *,
    model: str | StormModel = "storm-mini",
    alpha: float = 0.1,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    field: Field = "exact",
    device: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    precision: Precision = "auto",
) -> ExpressionHead:
    """Give a head intervals that hold for a new patient, by some measured spots of that patient.

    The head itself stays as it is: only the limits of its intervals change. On a patient whom a head had never seen,
    the intervals of its training covered 87 % of the measurements, and 73 % in the deepest spots; those by twenty of
    the patient's own spots covered 90 and 88 %.

    Parameters
    ----------
    head
        The head.
    data
        Section of the new patient, with an H&E image and counts of the head's genes.
    spots
        Measured spots to calibrate by: a boolean ``obs`` column, or a mask of length n_obs; all by default. They should
        be spread over the section, and of the depth for which intervals are wanted.
    model
        The model that the head was trained on.
    alpha
        1 − the level of the intervals.
    library_key, image_key, table_key, shapes_key, coordinate_system, um_per_px, layer, field
        See :func:`storm.tl.fit_expression`.
    device, batch_size, precision
        See :func:`storm.tl.embed`.

    Returns
    -------
    ExpressionHead
        The same head with other ``intervals``, at the median depth of the spots. ``notes["recalibrated_on"]`` counts
        the spots. Genes that the section does not measure keep their limits, and are named in a warning.

    Raises
    ------
    ValueError
        If the head belongs to another model, its genes are not measured and it has no limits of its own, or there are
        too few spots for this ``alpha`` (2/``alpha`` − 1, 19 for 90 %) that have counts and lie on the image.
    KeyError
        If an element or column does not exist.

    References
    ----------
    Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005).

    Examples
    --------
    Intervals of a head for another patient, from some spots of this patient that were measured:

    >>> import storm
    >>> first, other = storm.datasets.toy("visium", n=150), storm.datasets.toy("visium", n=200, seed=1)
    >>> head = storm.tl.fit_expression(first, ["EPCAM", "COL1A1"])
    >>> measured, rest = storm.pp.split_along_x(other)
    >>> there = storm.tl.recalibrate_expression(head, other, measured)
    >>> storm.tl.predict_expression(other, head=there, intervals=True)
    """
    if not isinstance(head, ExpressionHead):
        msg = f"head={head!r} is a {type(head).__name__}; give what storm.tl.fit_expression returned"
        raise TypeError(msg)
    if not 0 < check_between(alpha, name="alpha", low=0, high=1) < 1:
        msg = f"alpha={alpha!r} must lie between 0 and 1, such as 0.1 for intervals of 90 %"
        raise ValueError(msg)
    check_choice(field, get_args(Field), name="field")
    loaded = load_model(model)
    if head.model_sha256 != loaded.sha256:
        msg = f"the head was trained on another model than {loaded.name!r}; give model= the one that it was trained on"
        raise ValueError(msg)
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    field_um = head.field_um or loaded.tile_encoder.field_um
    check_positive(field_um, name="field_um", unit="µm")
    study = open_study(data, keys, library_key=library_key, image_key=image_key, image=True, writable=False)
    if len(study) > 1:
        msg = (
            f"data holds {len(study)} sections, {[section.name for section in study][:5]}; recalibrate on one: "
            f"shapes_key= picks a region"
        )
        raise ValueError(msg)
    section = next(iter(study))
    part = read_head_section(
        section,
        spots,
        loaded,
        Compute.of(device, precision=precision, batch_size=batch_size),
        wanted=list(head.genes),
        field_um=field_um,
        field=field,
        by=head.standardise or loaded.settings["standardise"],
        mask_name="spots",
    )
    listed: Any = head.notes.get("library_genes")
    part = replace(part, library=Library(None if listed is None else tuple(listed)))
    symbols = as_symbols(list(head.genes), loaded.vocabulary)
    absent = not_measured([part], symbols)
    missing = [head.genes[i] for i in absent]
    if missing and (head.intervals is None or len(missing) == len(symbols)):
        msg = f"{len(missing)} of the head's {len(head.genes)} genes are not measured in the section: {missing[:10]}"
        raise ValueError(msg)
    measured = np.setdiff1d(np.arange(len(symbols)), absent)
    rows = part.rows
    predicted = apply_head(head.module, part.features[rows])[:, measured]
    own = own_intervals(part, [symbols[i] for i in measured], predicted, alpha=alpha)
    if missing and head.intervals is not None:
        msg = (
            f"{len(missing)} of the head's {len(head.genes)} genes are not measured in the section and keep their "
            f"limits: {missing[:10]}"
        )
        warn(msg)
        limits = [np.array(side)[None] for side in head.intervals.at(own.default_depth)]
        for side, new in zip(limits, (own.lower, own.upper), strict=True):
            side[:, measured] = new
        own = replace(own, lower=limits[0], upper=limits[1])
    notes = head.notes | {"recalibrated_on": f"{len(rows)} spots"}
    return replace(head, intervals=own, notes=notes)
