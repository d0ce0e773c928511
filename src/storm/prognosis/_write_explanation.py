"""``storm.prognosis.write_explanation``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm import __version__
from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.workspace import Workspace, open_workspace, write_all
from storm._bridge.write import annotate_like, write_results
from storm._keys import READ, RISK, UNS, predicted_table
from storm._logging import warn
from storm.prognosis._explain import Explanation

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Distance in µm within which a tile of the explanation and one of the table are the same; places are float32.
_TOLERANCE_UM = 0.5


def write_explanation(
    data: SpatialData | AnnData,
    explanation: Explanation,
    *,
    slide: str | None = None,
    key_added: str = RISK,
    image_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    copy: bool = False,
) -> SpatialData | AnnData | None:
    """Write the contributions of tiles and genes to the table of the slide's tiles.

    Tiles are matched by their places in µm, never by their order, in which a cohort's features differ from a slide's
    tiles. A slide without a table gets its tiles first, as :func:`storm.prognosis.add_slides` lays them.

    Parameters
    ----------
    data
        The slide: an object of :func:`storm.io.slide`, or one whose table holds its tiles.
    explanation
        What :func:`explain` returned.
    slide
        Name of the slide in the cohort; may be left out if the patient has one.
    key_added
        Key of the results.
    image_key, table_key, shapes_key, coordinate_system, um_per_px
        As in :func:`storm.tl.embed`.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or None
        The copy if ``copy``, else ``None``. The table of the tiles gets

        - ``obs["storm_risk"]``: signed contribution of each tile, float64; NaN for a tile that was not explained,
        - ``obs["storm_risk_he"]``: that of its H&E embedding,
        - ``layers["storm_risk"]``: that of each gene, float32, if the explained genes are all genes of the table. A
          table of tiles has none: then ``X`` of a table ``"<table>_storm_risk"`` beside it, for the same shapes,
        - ``uns["storm"]["storm_risk"]``: patient, slide, risk, reference and error.

    Raises
    ------
    KeyError
        If the patient has no such slide, or an element is missing.
    ValueError
        If the patient has several slides and none is named, the image is of another file than the slide's, its scale is
        not known, or a tile of the explanation lies at no tile of the table. The object is then as it was.
    TypeError
        If ``explanation`` is none.

    Warns
    -----
    UserWarning
        If the table has tiles that were not explained.

    Examples
    --------
    A table of the tiles, which are in an order of their own; ``storm.io.slide`` reads a slide that gets one:

    >>> import pandas as pd
    >>> import storm
    >>> from anndata import AnnData
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> config = storm.prognosis.OutcomeFit(epochs=2)
    >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=config)
    >>> explanation = storm.prognosis.explain(model, cohort, "P0001")
    >>> bag = cohort.bag("P0001")
    >>> tiles = AnnData(
    ...     bag.st[::-1], var=pd.DataFrame(index=list(cohort.genes)), obsm={"spatial": bag.xy_um[::-1]}
    ... )
    >>> storm.prognosis.write_explanation(tiles, explanation, um_per_px=1.0)
    >>> bool((tiles.obs["storm_risk"] == explanation.tiles[::-1]).all())
    True
    """
    if not isinstance(explanation, Explanation):
        msg = f"explanation is a {type(explanation).__name__}; give what storm.prognosis.explain returned"
        raise TypeError(msg)
    name = _slide(explanation, slide)
    _check_file(data, explanation, name)
    keys = Keys(
        image_key=image_key,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
    )
    own = explanation.slide == explanation.slides.index(name)
    work = open_workspace(
        data,
        keys,
        field_um=explanation.field_um,
        stride_um=explanation.tile_um if np.isfinite(explanation.tile_um) else None,
        copy=copy,
        keys_added={"obs": [key_added, f"{key_added}_he"], "layers": [key_added]},
    )
    rows = _rows(work, explanation.xy_um[own], name)
    if lost := work.table.n_obs - len(rows):
        text = f"{lost} of {work.table.n_obs} tiles of the table were not explained, and get NaN"
        warn(text)

    def spread(values: np.ndarray, n_columns: int | None = None) -> np.ndarray:
        result = np.full(work.table.n_obs if n_columns is None else (work.table.n_obs, n_columns), np.nan, values.dtype)
        result[rows] = values[own]
        return result

    obs = {key_added: spread(explanation.tiles)}
    if explanation.he is not None:
        obs[f"{key_added}_he"] = spread(explanation.he)
    facts = {
        "storm_version": __version__,
        "patient": explanation.patient,
        "slide": name,
        "risk": explanation.risk,
        "reference": explanation.reference,
        "error": explanation.error,
    }
    layers: dict[str, np.ndarray] = {}
    beside: tuple[str, AnnData] | None = None
    if explanation.genes is not None:
        genes = spread(explanation.genes, len(explanation.gene_names))
        position = {gene: k for k, gene in enumerate(work.table.var_names)}
        if all(gene in position for gene in explanation.gene_names):
            layers[key_added] = np.full(work.table.shape, np.nan, np.float32)
            layers[key_added][:, [position[gene] for gene in explanation.gene_names]] = genes
        else:
            beside = _beside(work, genes, explanation, key_added, obs=obs, facts=facts)
    results: dict[str, Any] = {"obs": obs, "layers": layers, "uns": {key_added: facts}}
    if beside is None:
        write_all([(work, results)])
    else:
        undo = write_results(work.table, **results)
        try:
            work.add_table(*beside)
        except BaseException:
            undo()
            raise
    return work.owner if copy else None


def _slide(explanation: Explanation, slide: str | None) -> str:
    """Name of the slide that is meant."""
    slides = explanation.slides
    if slide is None and len(slides) > 1:
        msg = f"the patient has the slides {list(slides)}; name the one that data is, such as slide={slides[0]!r}"
        raise ValueError(msg)
    name = slides[0] if slide is None else slide
    if name not in slides:
        msg = f"there is no slide {name!r}; the patient has {list(slides)}"
        raise KeyError(msg)
    return name


def _check_file(data: Any, explanation: Explanation, slide: str) -> None:
    """Raise if the reader of the object, and that of the cohort's features, read files of different names."""
    note = getattr(data, "attrs", {}).get(READ, {})
    file = note.get("image") if note.get("reader") == "slide" else None
    wanted = dict(zip(explanation.slides, explanation.files, strict=False)).get(slide)
    if file and wanted and file != wanted:
        msg = f"data was read from {file!r}, and slide {slide!r} of the cohort is {wanted!r}; give that one"
        raise ValueError(msg)


def _rows(work: Workspace, xy_um: np.ndarray, slide: str) -> np.ndarray:
    """Row of the table for each tile of the explanation.

    Raises
    ------
    ValueError
        If the table's places are not known in µm, or a tile has no row of its own.
    """
    from scipy.spatial import cKDTree

    spots = spots_of(work.selection, counts=False)
    if not spots.um_known:
        msg = "the scale of the table's places is not known; give um_per_px=, or a SpatialData with the slide's image"
        raise ValueError(msg)
    placed = np.flatnonzero(np.isfinite(spots.centres).all(axis=1))
    distance, nearest = cKDTree(spots.centres[placed]).query(xy_um)
    off = distance > _TOLERANCE_UM
    if off.any():
        worst = int(np.argmax(distance))
        x, y = xy_um[worst]
        msg = (
            f"{int(off.sum())} of {len(xy_um)} tiles of slide {slide!r} lie at no tile of the table, the worst at "
            f"({x:.0f}, {y:.0f}) µm, {distance[worst]:.0f} µm from the nearest; the table is of another slide, or its "
            f"tiles were laid with another field, stride or scale"
        )
        raise ValueError(msg)
    rows = placed[nearest]
    if (twice := len(rows) - len(np.unique(rows))) > 0:
        msg = f"{twice} tiles of slide {slide!r} lie where another one of its tiles lies; its features are wrong"
        raise ValueError(msg)
    return rows


def _beside(
    work: Workspace,
    genes: np.ndarray,
    explanation: Explanation,
    key_added: str,
    *,
    obs: dict[str, np.ndarray],
    facts: dict[str, Any],
) -> tuple[str, AnnData]:
    """Name and table of the genes' contributions, for the shapes that the tiles' table annotates.

    Raises
    ------
    ValueError
        If ``data`` is an AnnData, which can hold no second table, or the name is taken.
    """
    if work.selection.table_key is None:
        lacking = [gene for gene in explanation.gene_names if gene not in work.table.var_names]
        msg = (
            f"the AnnData lacks {len(lacking)} of {len(explanation.gene_names)} explained genes, such as "
            f"{lacking[:3]}; give a SpatialData, which gets a table for them"
        )
        raise ValueError(msg)
    name = predicted_table(work.selection.table_key, key_added)
    work.check_new_table(name)
    table = annotate_like(work.table, genes, var=pd.DataFrame(index=list(explanation.gene_names)))
    for column, values in obs.items():
        table.obs[column] = values
    table.uns[UNS] = {key_added: facts}
    return name, table
