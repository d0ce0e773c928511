"""A grid of tiles over the tissue of an image that has no spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from storm._bridge.geometry import common_system
from storm._bridge.image import levels_of, make_reader
from storm._bridge.remembered import recalled_image_um
from storm._bridge.scale import ScaleSources, resolve_scale
from storm._checks import check_positive
from storm._keys import TILES
from storm.data.patches import PatchReader
from storm.data.tissue import tissue_share

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame

    from storm._bridge.selection import Selection

#: Share of a tile that must be tissue.
_TISSUE_SHARE = 0.25
#: Largest number of tiles; a whole slide of 50 × 25 mm in steps of 8 µm has 20 million.
_MAX_TILES = 50_000_000
#: Bytes of a tile: an outline of shapely, a row of the table and its name.
_TILE_BYTES = 1000


def make_tile_table(
    selection: Selection, *, field_um: float, stride_um: float | None = None, tissue: bool = True
) -> tuple[GeoDataFrame, AnnData]:
    """Lay square tiles over an image and keep those on tissue. Writes nothing.

    Tissue is told from glass by colour: a pixel at 8 µm/px is tissue if its saturation (HSV) is above Otsu's threshold,
    which is held between 0.05 and 0.15, and a tile is kept if a quarter of its pixels are tissue.

    Parameters
    ----------
    selection
        An object with its H&E image selected.
    field_um
        Edge of a tile, in µm.
    stride_um
        Distance between centres of neighbouring tiles, in µm; ``None`` for ``field_um``, so that tiles touch.
    tissue
        Whether to leave out tiles on glass.

    Returns
    -------
    shapes
        Squares with coordinates in µm and a transformation into the coordinate system of the image, indexed 0 to
        n - 1; to be added under ``storm._keys.TILES``.
    table
        n × 0 table that annotates them, row by row; ``obsm["spatial"]`` holds the centres in µm.

    Raises
    ------
    KeyError, ValueError, TypeError
        If the scale is missing, the image is not H&E (see :func:`storm._bridge.read_spots`), or no tissue is found.
    """
    check_positive(field_um, name="field_um", unit="µm")
    stride_um = field_um if stride_um is None else stride_um
    check_positive(stride_um, name="stride_um", unit="µm")
    image_key, element = selection.image_key, selection.image
    assert image_key is not None  # it was selected with image=True
    system = common_system({f"image {image_key!r}": element}, wanted=selection.keys.coordinate_system)
    sources = ScaleSources(
        coordinate_system=system,
        image=levels_of(element)[0],
        attrs=selection.attrs,
        told=recalled_image_um(selection.data, image_key, system),
    )
    scale = resolve_scale(sources, um_per_px=selection.keys.um_per_px, name=f"image {image_key!r}")
    assert scale is not None  # required
    reader = make_reader(element, image_key=image_key, coordinate_system=system, um_per_unit=scale.um_per_unit)

    centres = tile_centres(reader, stride_um)
    if tissue and len(centres):
        centres = centres[tissue_share(reader, centres, field_um=field_um) >= _TISSUE_SHARE]
    if not len(centres):
        x0, y0, x1, y1 = reader.extent_um
        msg = (
            f"no tile of {field_um:g} µm lies on tissue of image {image_key!r} ({x1 - x0:.0f} × {y1 - y0:.0f} µm); "
            f"check the µm scale ({scale.um_per_px:.4g} µm/px from {scale.source}); where tissue is too "
            f"pale to be told from glass, add shapes of your own and a table that annotates them"
        )
        raise ValueError(msg)
    return _as_elements(centres, field_um=field_um, system=system, um_per_unit=scale.um_per_unit)


def tile_centres(reader: PatchReader, stride_um: float) -> np.ndarray:
    """Centres of a grid in the middle of an image.

    Parameters
    ----------
    reader
        Reader of the image.
    stride_um
        Distance between neighbouring centres, in µm.

    Returns
    -------
    ndarray
        x and y in µm, row by row, shape (n, 2); those on the image.

    Raises
    ------
    ValueError
        If the grid would have more than 50 million tiles.
    """
    low, high = np.reshape(reader.extent_um, (2, 2))
    width, height = (high - low).tolist()
    n_tiles = max(width / stride_um, 1) * max(height / stride_um, 1)
    if n_tiles > _MAX_TILES:
        msg = (
            f"stride_um={stride_um:g} lays {n_tiles:.3g} tiles over the image of {width:.0f} × {height:.0f} µm, whose "
            f"outlines and table take {n_tiles * _TILE_BYTES / 1e9:.3g} GB; choose a larger stride_um, so that there "
            f"are at most {_MAX_TILES:,} tiles"
        )
        raise ValueError(msg)
    counts = np.maximum(np.floor((high - low) / stride_um + 1e-9), 1).astype(int)
    starts = (low + high - (counts - 1) * stride_um) / 2
    x, y = (start + stride_um * np.arange(n) for start, n in zip(starts, counts, strict=True))
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return centres[reader.inside(centres)]


def _as_elements(
    centres: np.ndarray, *, field_um: float, system: str, um_per_unit: float
) -> tuple[GeoDataFrame, AnnData]:
    import geopandas as gpd
    import shapely
    from anndata import AnnData
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    low, high = centres - field_um / 2, centres + field_um / 2
    squares = gpd.GeoDataFrame(
        geometry=shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]), index=np.arange(len(centres))
    )
    to_system = Identity() if um_per_unit == 1 else Scale([1 / um_per_unit, 1 / um_per_unit], axes=("x", "y"))
    shapes = ShapesModel.parse(squares, transformations={system: to_system})
    names = pd.Index([f"tile_{k}" for k in range(len(centres))])
    table = AnnData(
        X=sparse.csr_matrix((len(centres), 0), dtype=np.float32),
        obs=pd.DataFrame(
            {"region": pd.Categorical([TILES] * len(centres)), "tile_id": np.arange(len(centres))}, index=names
        ),
        obsm={"spatial": centres.copy()},
    )
    return shapes, TableModel.parse(table, region=TILES, region_key="region", instance_key="tile_id")
