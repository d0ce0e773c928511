"""Legacy Spatial Transcriptomics: a table of counts, a table of spots, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._checks import check_positive
from storm._keys import READ
from storm._logging import logger
from storm.io._open import open_image
from storm.io._placing import fit_scale, in_pixels

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

_SPOT_COLUMNS = ("x", "y", "pixel_x", "pixel_y")


def st(
    counts: str | Path,
    spots: str | Path,
    image: str | Path | None = None,
    *,
    um_per_px: float | None = None,
    pitch_um: float = 200.0,
    spot_um: float = 100.0,
) -> SpatialData:
    """Read a section of legacy Spatial Transcriptomics.

    Parameters
    ----------
    counts
        Tab-separated table, spots × genes, its row names ``XxY`` (column and row of the spot on the array); may be
        compressed.
    spots
        Tab-separated table with the columns ``x``, ``y`` (on the array) and ``pixel_x``, ``pixel_y`` (of the
        full-resolution image).
    image
        The full-resolution H&E (see :func:`~storm.io.slide` for formats); without it the object holds no image.
    um_per_px
        µm per pixel. By default derived: the similarity that fits the array's known pitch to the spots' pixels best.
    pitch_um
        Distance between neighbouring spots in µm.
    spot_um
        Diameter of a spot in µm.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, if there is an image), ``shapes["spots"]`` (circles), ``tables["table"]``
        (raw counts, CSR float32) of the spots that are in both tables, in the order of the counts. Coordinate systems
        ``"global"`` (pixels of the image) and ``"um"`` (µm). ``uns["st"]`` tells the µm per pixel, where they come
        from, how far the spots lie from a regular array, and how many rows of either table were left out.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a table is not as described, or the two have no spot in common.
    """
    import geopandas as gpd
    import shapely
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    check_positive(pitch_um, name="pitch_um", unit="µm")
    check_positive(spot_um, name="spot_um", unit="µm")
    if um_per_px is not None:
        check_positive(um_per_px, name="um_per_px", unit="µm")
    for file in (counts, spots, image):
        if file is not None and not Path(file).is_file():
            msg = f"there is no file {file}"
            raise FileNotFoundError(msg)

    names, genes, matrix = read_counts(counts)
    places = read_spots_table(spots)
    shared = names.isin(places.index)
    if not shared.any():
        msg = f"{counts} and {spots} have no spot in common: {names[0]!r}, … against {places.index[0]!r}, …"
        raise ValueError(msg)
    left_out = {
        "counts_without_spot": int((~shared).sum()),
        "spots_without_counts": int((~places.index.isin(names)).sum()),
    }
    if any(left_out.values()):
        logger.info("%s: left out %s", Path(counts).name, left_out)
    names, matrix = names[shared], matrix[np.flatnonzero(shared)]
    places = places.loc[names]

    pixels = places[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)
    array = places[["x", "y"]].to_numpy(dtype=np.float64)
    facts: dict[str, Any] = dict(left_out)
    if um_per_px is None:
        um_per_px, residual = fit_scale(array * pitch_um, pixels)
        facts["um_per_px_source"] = f"fit of the spots' pixels to the array's pitch of {pitch_um:g} µm"
        facts["array_residual_um"] = residual
    else:
        facts["um_per_px_source"] = "given"
    facts["um_per_px"] = float(um_per_px)

    transformations = in_pixels(um_per_px)
    circles = gpd.GeoDataFrame(
        {"radius": np.full(len(names), spot_um / 2 / um_per_px)}, geometry=shapely.points(pixels), index=names
    )
    obs = pd.DataFrame(
        {
            "region": pd.Categorical(["spots"] * len(names)),
            "spot_id": names.to_numpy(),
            "array_row": array[:, 1].astype(int),
            "array_col": array[:, 0].astype(int),
        },
        index=names,
    )
    table = AnnData(matrix, obs=obs, var=pd.DataFrame(index=genes), obsm={"spatial": pixels}, uns={"st": facts})
    images = {}
    if image is not None:
        images["he"] = open_image(image).element(in_pixels(um_per_px))
    return SpatialData(
        images=images,
        shapes={"spots": ShapesModel.parse(circles, transformations=transformations)},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
        attrs={"platform": "st", READ: {"reader": "st", "counts": Path(counts).name, **facts}},
    )


def read_counts(path: str | Path) -> tuple[pd.Index, pd.Index, csr_matrix]:
    """Spots, genes and counts (CSR float32) of a tab-separated table."""
    from scipy.sparse import csr_matrix

    frame = pd.read_csv(path, sep="\t", index_col=0)
    numeric = frame.dtypes.map(pd.api.types.is_numeric_dtype)
    if frame.empty or not numeric.all():
        bad = list(frame.columns[~numeric])[:5]
        msg = f"{path} is no table of counts (spots × genes, tab-separated): " + (f"{bad} are text" if bad else "empty")
        raise ValueError(msg)
    for axis, labels in (("spot", frame.index), ("gene", frame.columns)):
        if not labels.is_unique:
            msg = f"{path} names a {axis} twice: {list(labels[labels.duplicated()].unique()[:5])}"
            raise ValueError(msg)
    values = frame.to_numpy(dtype=np.float32)
    if not np.isfinite(values).all() or (values < 0).any():
        msg = f"{path} holds negative or missing counts"
        raise ValueError(msg)
    return frame.index.astype(str), frame.columns.astype(str), csr_matrix(values)


def read_spots_table(path: str | Path) -> pd.DataFrame:
    """Table of spots, indexed by ``XxY``."""
    frame = pd.read_csv(path, sep="\t")
    missing = [c for c in _SPOT_COLUMNS if c not in frame.columns]
    if missing:
        msg = f"{path} has no columns {missing}; it has {list(frame.columns)}"
        raise ValueError(msg)
    frame.index = array_names(frame["x"], frame["y"])
    if not frame.index.is_unique:
        msg = f"{path} names a spot twice: {list(frame.index[frame.index.duplicated()][:5])}"
        raise ValueError(msg)
    return frame


def array_names(x: pd.Series, y: pd.Series) -> pd.Index:
    """Names ``XxY`` of (rounded) places on the array."""
    return pd.Index([f"{a}x{b}" for a, b in zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)])
