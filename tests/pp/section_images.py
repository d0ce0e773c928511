"""The pixels of a section, and the same section over other ones."""

from __future__ import annotations

import numpy as np
import spatialdata
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Scale

from storm._bridge.image import levels_of


def pixels_of(sdata) -> np.ndarray:
    return np.asarray(levels_of(sdata["he"])[0].data)


def with_image(sdata, pixels: np.ndarray, um_per_px: float = 1.0) -> spatialdata.SpatialData:
    """The same spots over another image."""
    transformations = {"um": Scale([um_per_px] * 2, axes=("x", "y")), "global": Identity()}
    image = Image2DModel.parse(pixels, dims="cyx", c_coords=["r", "g", "b"], transformations=transformations)
    return spatialdata.SpatialData(
        images={"he": image}, shapes={"spots": sdata["spots"]}, tables={"table": sdata["table"]}
    )
