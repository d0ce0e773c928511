"""Legacy Spatial Transcriptomics: a table of counts, a table of spots, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.scale import TOLERANCE
from storm._checks import check_positive
from storm._keys import READ
from storm._logging import logger
from storm.io._genes import gene_mask
from storm.io._open import open_image
from storm.io._placing import check_array, fit_scale, in_pixels
from storm.io._scale import given_scale
from storm.io._vendor import as_path, check_scale, need_columns, places, read_table

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
    r"""Read a section of legacy Spatial Transcriptomics.

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
        µm per pixel of the full-resolution image, in whose pixels the spots are given. By default that of the
        similarity that maps the spots' pixels best to the array with its known pitch; where the two differ, the
        argument is used and the difference is logged.
    pitch_um
        Distance between neighbouring spots in µm.
    spot_um
        Diameter of a spot in µm.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, if there is an image), ``shapes["spots"]`` (circles), ``tables["table"]``
        (raw counts, CSR float32) of the spots that are in both tables, in the order of the counts. Coordinate systems
        ``"global"`` (pixels of the image) and ``"um"`` (µm). ``uns["st"]`` holds the µm per pixel, their source,
        how far the spots lie from a regular array, and how many rows of either table and how many features that are
        not genes were left out.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If a table is damaged or not as described; the two have no spot in common; a spot has no position; the pixels
        of the spots do not fit their places on the array; or the scale is unknown or impossible.

    Warns
    -----
    UserWarning
        If a few spots lie elsewhere in the image than on the array.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import storm
    >>> places = [f"{x}x{y}" for x in range(2, 6) for y in range(2, 6)]
    >>> numbers = np.random.default_rng(0).poisson(3, size=(16, 2))
    >>> counts = pd.DataFrame(numbers, index=places, columns=["EPCAM", "COL1A1"])
    >>> counts.to_csv("counts.tsv", sep="\t")
    >>> spots = pd.DataFrame({"x": [int(p[0]) for p in places], "y": [int(p[2]) for p in places]})
    >>> spots = spots.assign(pixel_x=spots["x"] * 290.0, pixel_y=spots["y"] * 290.0)
    >>> spots.to_csv("spots.tsv", sep="\t", index=False)
    >>> sdata = storm.io.st("counts.tsv", "spots.tsv")
    >>> sdata["table"].shape
    (16, 2)
    """
    import geopandas as gpd
    import shapely
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    check_positive(pitch_um, name="pitch_um", unit="µm")
    check_positive(spot_um, name="spot_um", unit="µm")
    given, _ = given_scale(um_per_px)
    for file in (counts, spots, image):
        if file is not None and not as_path(file, name="counts, spots or image").exists():
            msg = f"there is no file {file}"
            raise FileNotFoundError(msg)
    counts, spots = Path(counts), Path(spots)

    names, genes, matrix, controls = read_counts(counts)
    placed = read_spots_table(spots)
    shared = names.isin(placed.index)
    if not shared.any():
        example = next(iter(placed.index), "nothing")
        msg = f"{counts} and {spots} have no spot in common: {names[0]!r}, … against {example!r}, …"
        raise ValueError(msg)
    left_out = {
        "counts_without_spot": int((~shared).sum()),
        "spots_without_counts": int((~placed.index.isin(names)).sum()),
    }
    if any(left_out.values()):
        logger.warning(
            "%s and %s do not hold the same spots: %s; common ones are read", counts.name, spots.name, left_out
        )
    names, matrix = names[shared], matrix[np.flatnonzero(shared)]
    placed = placed.loc[names]

    pixels = places(placed, ["pixel_x", "pixel_y"], spots)
    array = placed[["x", "y"]].to_numpy(dtype=np.float64)
    facts: dict[str, Any] = dict(left_out)
    if controls:
        facts["features_left_out"] = controls
    facts |= _scale(array * pitch_um, pixels, given=given, pitch_um=pitch_um, path=spots)
    um_per_px = float(facts["um_per_px"])

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
        opened = open_image(image)
        beyond = float(((pixels < 0) | (pixels > opened.size)).any(axis=1).mean())
        if beyond:
            text = (
                "%.1f %% of the spots lie beyond %s: is it the full-resolution image, in whose pixels they are given?"
            )
            logger.warning(text, 100 * beyond, opened.path.name)
        images["he"] = opened.element(in_pixels(um_per_px))
    return SpatialData(
        images=images,
        shapes={"spots": ShapesModel.parse(circles, transformations=transformations)},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
        attrs={"platform": "st", READ: {"reader": "st", "counts": Path(counts).name, **facts}},
    )


def _scale(
    array_um: np.ndarray, pixels: np.ndarray, *, given: float | None, pitch_um: float, path: Path
) -> dict[str, Any]:
    """µm per pixel and its source, as facts; the array and the pixels are compared.

    Parameters
    ----------
    array_um, pixels
        The spots on the array and in the image, float64 (n, 2).
    given
        The user's µm per pixel, or ``None``.
    pitch_um
        Distance between neighbouring spots in µm.
    path
        Table of the spots, for errors.
    """
    try:
        by_pitch, residual = fit_scale(array_um, pixels)
    except ValueError:
        if given is None:
            raise
        fitted: dict[str, Any] = {}
    else:
        check_array(array_um, pixels, pitch_um=pitch_um, path=path)
        fitted = {"um_per_px_of_pitch": by_pitch, "array_residual_um": residual}
    if given is None:
        scale = (by_pitch, f"fit of the spots' pixels to the array's pitch of {pitch_um:g} µm")
    else:
        scale = (float(given), "given")
        implied = fitted.get("um_per_px_of_pitch", given)
        if not 1 / TOLERANCE < implied / given < TOLERANCE:
            text = "um_per_px=%.4g is used; the pitch of the array implies %.4g µm per pixel"
            logger.warning(text, given, implied)
    check_scale(scale)
    return fitted | {"um_per_px": scale[0], "um_per_px_source": scale[1]}


def read_counts(path: Path) -> tuple[pd.Index, pd.Index, csr_matrix, dict[str, int]]:
    """Read a tab-separated table of counts.

    Returns
    -------
    spots : Index
        Names of the rows.
    genes : Index
        Names of the columns that are genes.
    counts : csr_matrix
        Shape (number of spots, number of genes), float32.
    left_out : dict
        Number of features that are not genes, by kind.
    """
    from scipy.sparse import csr_matrix

    frame = read_table(path, sep="\t", index_col=0)
    numeric = np.array([pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes], dtype=bool)
    if frame.empty or not numeric.all():
        bad = list(frame.columns[~numeric])[:5]
        msg = f"{path} is not a table of counts (spots × genes, tab-separated): " + (
            f"{bad} are text" if bad else "empty"
        )
        raise ValueError(msg)
    for axis, labels in (("spot", frame.index), ("gene", frame.columns)):
        if not labels.is_unique:
            msg = f"{path} names a {axis} twice: {list(labels[labels.duplicated()].unique()[:5])}"
            raise ValueError(msg)
    values = frame.to_numpy(dtype=np.float32)
    if not np.isfinite(values).all() or (values < 0).any():
        msg = f"{path} holds negative, infinite or missing counts"
        raise ValueError(msg)
    genes = frame.columns.astype(str)
    mask, left_out = gene_mask(pd.DataFrame({"name": genes}), path)
    if not mask.any():
        msg = f"{path} holds no column of a gene; it has {list(genes[:10])}"
        raise ValueError(msg)
    return frame.index.astype(str), genes[mask], csr_matrix(values[:, mask]), left_out


def read_spots_table(path: Path) -> pd.DataFrame:
    """Table of spots, indexed by ``XxY``; ``x`` and ``y`` are finite."""
    frame = read_table(path, sep="\t")
    need_columns(frame, _SPOT_COLUMNS, path)
    frame[["x", "y"]] = places(frame, ["x", "y"], path)
    frame.index = array_names(frame["x"], frame["y"])
    if not frame.index.is_unique:
        msg = f"{path} names a spot twice: {list(frame.index[frame.index.duplicated()][:5])}"
        raise ValueError(msg)
    return frame


def array_names(x: pd.Series, y: pd.Series) -> pd.Index:
    """Names ``XxY`` of (rounded) places on the array."""
    return pd.Index([f"{a}x{b}" for a, b in zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)])
