"""Where elements are: coordinate systems, affine maps, centres of instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._keys import UM_SYSTEMS
from storm._logging import warn
from storm.data.lattice import find_lattice

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Share of rows with coinciding coordinates above which they are not cells with rounded positions: in a public section
#: of imaged cells it is a fifth, and all of them where a section is in the table twice.
_COINCIDENT = 0.5


def systems_of(element: Any) -> list[str]:
    """Coordinate systems in which an element has a place."""
    from spatialdata.transformations import get_transformation

    return sorted(get_transformation(element, get_all=True))


def affine_of(element: Any, coordinate_system: str) -> np.ndarray:
    """Affine map (2, 3) of x and y from an element's own coordinates into a coordinate system."""
    from spatialdata.transformations import get_transformation

    matrix = get_transformation(element, coordinate_system).to_affine_matrix(("x", "y"), ("x", "y"))
    affine = np.asarray(matrix, dtype=np.float64)[:2]
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:, :2]) < 2:
        msg = (
            f"a transformation into {coordinate_system!r} cannot be inverted: {affine.tolist()} of x, y, 1; correct it "
            f"with spatialdata.transformations.set_transformation"
        )
        raise ValueError(msg)
    return affine


def um_system(systems: list[str]) -> str | None:
    """The first of ``systems`` whose name means micrometres, in the order of ``storm._keys.UM_SYSTEMS``.

    ``"um-A"`` means them too: spatialdata's ``concatenate`` adds the name of a section to those of its systems. The
    bare names come first.
    """
    by_name = {s.casefold(): s for s in systems}
    by_name = {s.partition("-")[0]: by_name[s] for s in sorted(by_name, reverse=True)} | by_name
    return next((by_name[name] for name in UM_SYSTEMS if name in by_name), None)


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (n, 2)."""
    return points @ affine[:, :2].T + affine[:, 2]


def length_scale(affine: np.ndarray) -> float:
    """Factor by which an affine map stretches lengths (square root of the factor for areas)."""
    return float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))


def inverse(affine: np.ndarray) -> np.ndarray:
    """The inverse affine map (2, 3)."""
    linear = np.linalg.inv(affine[:, :2])
    return np.column_stack([linear, -linear @ affine[:, 2]])


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The affine map (2, 3) that applies ``first``, then ``second``."""
    return np.column_stack([second[:, :2] @ first[:, :2], apply(second, first[None, :, 2])[0]])


def common_system(elements: Mapping[str, Any], *, wanted: str | None = None) -> str:
    """Choose the coordinate system in which elements meet.

    A system in µm is preferred, then ``"global"`` (each also with the suffix of a concatenated section), then the only
    one in common, or any of several if it makes no difference to how the elements lie to each other.

    Parameters
    ----------
    elements
        Elements by the words that name them in errors.
    wanted
        The system the user asks for.

    Raises
    ------
    ValueError
        If an element is not in ``wanted``, the elements have no system in common, or have several that disagree.
    """
    systems = {name: systems_of(element) for name, element in elements.items()}
    listed = "; ".join(f"{name}: {there}" for name, there in systems.items())
    if wanted is not None:
        missing = [name for name, there in systems.items() if wanted not in there]
        if missing:
            msg = f"coordinate_system={wanted!r} is unknown to {', '.join(missing)}; known are: {listed}"
            raise ValueError(msg)
        return wanted
    first, *others = systems.values()
    common = [s for s in first if all(s in other for other in others)]
    if not common:
        msg = (
            f"{' and '.join(elements)} have no coordinate system in common ({listed}); align them and record it with "
            f"spatialdata.transformations.set_transformation(element, transformation, to_coordinate_system)"
        )
        raise ValueError(msg)
    best = um_system(common) or next((s for s in sorted(common) if s.partition("-")[0] == "global"), None)
    if best is None and not _same_arrangement(list(elements.values()), common):
        msg = f"{' and '.join(elements)} lie differently to each other in {common}; choose one with coordinate_system="
        raise ValueError(msg)
    return best or common[0]


def _same_arrangement(elements: list[Any], systems: list[str]) -> bool:
    """Whether the elements lie to each other in the same way in all the systems."""
    if len(elements) < 2:
        return True
    first, *others = elements
    between = [[compose(affine_of(other, s), inverse(affine_of(first, s))) for other in others] for s in systems]
    return all(np.allclose(b, between[0], rtol=1e-3, atol=1e-3) for b in between)


def find_element(sdata: SpatialData, key: str) -> Any:
    """Return the shapes, points or labels of that name."""
    for group in (sdata.shapes, sdata.points, sdata.labels):
        if key in group:
            return group[key]
    available = [*sdata.shapes, *sdata.points, *sdata.labels]
    msg = f"shapes_key={key!r} is not in the object, which holds: {available or 'no shapes'}"
    raise KeyError(msg)


def centres_of(element: Any, coordinate_system: str) -> tuple[pd.Index, np.ndarray]:
    """Centre of each instance of an element, in a coordinate system.

    The centre of a circle or point is its position, of a polygon its centroid, of a label the mean of its pixels. An
    outline that crosses itself is made valid first, because its lobes would count against each other.

    Returns
    -------
    index
        The element's index, shape (n,).
    centres
        x and y, float64, shape (n, 2); NaN for an empty outline.
    """
    from geopandas import GeoDataFrame

    if isinstance(element, GeoDataFrame):
        return element.index, apply(affine_of(element, coordinate_system), _centroids(element.geometry.to_numpy()))
    if hasattr(element, "map_partitions"):
        frame = element[["x", "y"]].compute(scheduler="synchronous")
        return frame.index, apply(affine_of(element, coordinate_system), frame.to_numpy(dtype=np.float64))
    import dask
    from spatialdata import get_centroids

    with dask.config.set(scheduler="synchronous"):
        frame = get_centroids(element, coordinate_system)[["x", "y"]].compute()
    return frame.index, frame.to_numpy(dtype=np.float64)


def _centroids(geometry: np.ndarray) -> np.ndarray:
    """X and y of the centre of each geometry, shape (n, 2)."""
    import shapely

    crossed = ~shapely.is_valid(geometry) & (shapely.get_type_id(geometry) != 0)
    if crossed.any():
        geometry = geometry.copy()
        geometry[crossed] = shapely.make_valid(geometry[crossed])
    centres = np.full((len(geometry), 2), np.nan)
    present = ~(shapely.is_empty(geometry) | shapely.is_missing(geometry))
    centres[present] = shapely.get_coordinates(shapely.centroid(geometry[present]))
    return centres


def has_outline(element: Any) -> np.ndarray:
    """Which instances of shapes have an outline that is not empty, bool, shape (n,)."""
    return ~element.geometry.is_empty.to_numpy() & ~element.geometry.isna().to_numpy()


#: Coordinates beyond which a number is damaged: no slide is 10⁹ pixels, µm or nm wide.
_FARTHEST = 1e9


def check_centres(centres: np.ndarray, ids: np.ndarray, *, where: str) -> None:
    """Raise if coordinates are not finite, or spots of a lattice or whole sections lie on top of each other.

    Cells may share their coordinates where these were rounded; they are counted in a warning.

    Parameters
    ----------
    centres
        x and y of the instances that should have a place, shape (n, 2).
    ids
        Names of the instances, shape (n,).
    where
        Source of the coordinates, in words.

    Raises
    ------
    ValueError
        If a coordinate is NaN or infinite, more than half of the rows share their coordinates with another row, or
        some do and the places are those of a square or hexagonal lattice.
    """
    bad = ~np.isfinite(centres).all(axis=1)
    if bad.any():
        msg = (
            f"{int(bad.sum())} of {len(bad)} coordinates in {where} are NaN or infinite, e.g. of {_some(ids[bad])}; "
            f"remove these rows, or give them a place"
        )
        raise ValueError(msg)
    far = np.abs(centres).max(initial=0)
    if far > _FARTHEST:
        msg = f"coordinates in {where} reach {far:.3g}, beyond any slide; check their unit, or remove these rows"
        raise ValueError(msg)
    twice = pd.DataFrame(centres).duplicated(keep=False).to_numpy()
    if not twice.any():
        return
    share = f"{int(twice.sum())} of {len(twice)} rows share their coordinates in {where} with another row"
    on_lattice = find_lattice(np.unique(centres, axis=0)) is not None
    if on_lattice or twice.mean() > _COINCIDENT:
        reason = ", and the places form a lattice, where each belongs to one spot" if on_lattice else ""
        msg = (
            f"{share}, e.g. {_some(ids[twice])}{reason}; keep one row per place; if the table holds several "
            f"sections, name the column of obs that tells them apart: library_key="
        )
        raise ValueError(msg)
    msg = f"{share}, e.g. {_some(ids[twice])}: they are taken for cells whose positions were rounded"
    warn(msg)


def _some(ids: np.ndarray, n: int = 3) -> str:
    return ", ".join(repr(str(i)) for i in ids[:n]) + (", …" if len(ids) > n else "")
