"""``storm.prognosis.add_features``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storm._bridge.cohort import Cohort
from storm._bridge.cohort_writing import store_features


def add_features(
    cohort: Cohort,
    slide: str,
    *,
    he: np.ndarray,
    st: np.ndarray | None = None,
    genes: Sequence[str] | None = None,
    xy_um: np.ndarray,
    per_tile: Mapping[str, np.ndarray] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Add features of a slide that were computed elsewhere, for example by a tile encoder of your own.

    They are stored as float16, tiles in random order.

    Parameters
    ----------
    cohort
        The cohort.
    slide
        Name of a slide of ``cohort.slides``. Features that it has already are replaced.
    he
        Embedding of each tile's H&E, shape (n, d).
    st
        Expression of each tile, shape (n, g). Either all slides of a cohort have it, or none.
    genes
        Names of its columns, the same and in the same order for all slides.
    xy_um
        Centres of the tiles in µm of the slide, shape (n, 2).
    per_tile
        Further numbers of each tile by name, such as counts of cells: ``cohort.features(slide)[name]`` returns them, in
        the order in which the tiles are stored.
    facts
        What made the features, as text and numbers: ``{"encoder": "my-vit", "field_um": 112}``. Slides with other facts
        are refused.

    Raises
    ------
    KeyError
        If the cohort has no such slide.
    TypeError
        If a gene is no text, or ``facts`` or ``per_tile`` no dictionary.
    ValueError
        If shapes do not fit each other, there is no tile, a value is not finite or beyond float16, or the features of
        other slides were made in another way (facts, dimensions, genes). The cohort is then as it was.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import storm
    >>> patients = pd.DataFrame({"DSS_time": [100.0], "DSS_event": [1]}, index=["P1"])
    >>> slides = pd.DataFrame({"patient": ["P1"]}, index=["S1"])
    >>> cohort = storm.prognosis.Cohort.create("cohort", patients=patients, slides=slides)
    >>> he, xy_um = np.random.default_rng(0).normal(size=(50, 8)), np.arange(100).reshape(50, 2) * 100.0
    >>> storm.prognosis.add_features(cohort, "S1", he=he, xy_um=xy_um, facts={"encoder": "my-vit"})
    >>> cohort.bag("P1").he.shape
    (50, 8)
    """
    store_features(
        cohort, slide, he=he, st=st, genes=genes, xy_um=xy_um, per_tile=per_tile, facts={} if facts is None else facts
    )
