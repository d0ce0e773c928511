"""A section whose colours say where they are, in the parts of which the tests of reading make what they need."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

UM = 0.5  # µm per pixel of the planted image
SIZE = (240, 320)  # pixels, y and x


def planted_image() -> np.ndarray:
    """Red is x and green is y of the pixel, both in pixels (y and x below 256 apart from a factor)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([x * 0.75, y, np.full(SIZE, 30)]).round().astype(np.uint8)


def grid_px() -> np.ndarray:
    """Centres in pixels, 6 × 8 of them, x before y."""
    x, y = np.meshgrid(np.arange(8) * 36 + 30.25, np.arange(6) * 36 + 25.5)
    return np.column_stack([x.ravel(), y.ravel()])


def counts(n: int, g: int = 5) -> np.ndarray:
    return np.random.default_rng(0).poisson(2, (n, g)).astype(np.float32)


def table_for(instances, region: str = "spots", X=None, **uns) -> ad.AnnData:
    n = len(instances)
    table = ad.AnnData(
        X=sparse.csr_matrix(counts(n)) if X is None else X,
        obs=pd.DataFrame(
            {"region": pd.Categorical([region] * n), "id": instances}, index=[f"spot {k}" for k in range(n)]
        ),
        var=pd.DataFrame(index=["EPCAM", "CD3E", "COL1A1", "ACTB", "PTPRC"]),
        uns=uns,
    )
    return TableModel.parse(table, region=region, region_key="region", instance_key="id")


def frames(**more) -> dict:
    """Pixels are ``global``; ``um`` is in µm."""
    return {"global": Identity(), "um": Scale([UM, UM], axes=("x", "y")), **more}


def image_element(transformations: dict | None = None, *, scale_factors=(2, 2), **kwargs):
    kwargs = {"c_coords": ["r", "g", "b"], "dims": ("c", "y", "x")} | kwargs
    return Image2DModel.parse(
        planted_image(), transformations=frames() if transformations is None else transformations,
        scale_factors=None if scale_factors is None else list(scale_factors), **kwargs,
    )  # fmt: skip


def circles(px: np.ndarray | None = None, transformations: dict | None = None, index=None):
    px = grid_px() if px is None else px
    return ShapesModel.parse(
        px, geometry=0, radius=10.0, index=np.arange(len(px)) if index is None else index,
        transformations=frames() if transformations is None else transformations,
    )  # fmt: skip


def section(**parts) -> SpatialData:
    parts = {"image": image_element(), "shapes": circles(), "table": table_for(np.arange(48))} | parts
    return SpatialData(
        images={} if parts["image"] is None else {"he": parts["image"]},
        shapes={} if parts["shapes"] is None else {"spots": parts["shapes"]},
        tables={} if parts["table"] is None else {"table": parts["table"]},
    )


def colours(spots, field_um: float = 4.0) -> np.ndarray:
    """Where the patches' centres are in pixels, read off their colour."""
    patches = spots.patches.read(spots.centres, field_um=field_um, out_px=8).astype(float)
    return patches[:, 3:5, 3:5].mean(axis=(1, 2))[:, :2] / (0.75, 1.0) + 0.5
