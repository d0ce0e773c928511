"""``storm.pp.set_scale``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from storm._bridge.keys import Keys
from storm._bridge.scale_setting import set_scales

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def set_scale(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    um_per_px: float | Mapping[str, float] | None = None,
    *,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Say once how long a pixel is; all later calls find it, plots included.

    The scale is kept by row, so that it stays with the rows in subsets, in files (zarr and h5ad), and where objects are
    put together: set it before ``spatialdata.concatenate`` or ``anndata.concat``, which drop most other notes.

    Parameters
    ----------
    data
        A SpatialData, an AnnData with ``obsm["spatial"]``, or a list of these.
    um_per_px
        µm per pixel of the full-resolution image, or, without an image, per unit of the coordinates. One number, or one
        for each section by its name. ``None`` writes down what each section says itself, by its coordinate systems or
        the metadata of its platform.
    library_key
        Column of ``obs`` that names the section of each row, where a table holds several.
    image_key
        The image whose pixels are meant, or that of each section by its name; needed only where there are several.
    table_key
        The table; by default all tables whose rows have a place.
    shapes_key
        The only element of interest of a table that annotates several.
    coordinate_system
        Where image and shapes meet; by default the one in µm, else ``"global"``.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; each table gets ``obs["storm_um_per_unit"]``: µm per
        unit of the coordinates in which the row's place is stored (of its shapes, or of ``obsm["spatial"]``). An image
        without a table is noted in ``sdata.attrs["storm"]``.

    Raises
    ------
    KeyError
        If there is no element, column or section of a given name.
    ValueError
        If the number is not the size of a pixel, contradicts by more than 5 % what the object says itself, or is
        ``None`` where the object says nothing. ``data`` is then as it was.

    Warns
    -----
    UserWarning
        If the object holds results that were computed at another scale.

    Examples
    --------
    >>> import storm
    >>> adata = storm.datasets.toy("visium", n=50)["table"]
    >>> storm.pp.set_scale(adata, 0.5)
    >>> float(adata.obs["storm_um_per_unit"].iloc[0])
    0.5

    See Also
    --------
    storm.pp.check : compares the scale with the pitch of the platform.
    """
    keys = Keys(table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system)
    changed = set_scales(data, um_per_px, keys, library_key=library_key, image_key=image_key, copy=copy)
    if not copy:
        return None
    return changed if isinstance(data, list | tuple) else changed[0]
