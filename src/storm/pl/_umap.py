"""Domains in the plane of one or several embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from storm import _keys
from storm._bridge import select_table
from storm._bridge.embedding import read_embedding
from storm._checks import check_key, check_positive
from storm.pl import _draw
from storm.pl._arguments import check_axes, check_one_section
from storm.pl._categories import categories, colours_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["umap"]

#: Above this number of rows, a vector file stores them as pixels, so that it opens quickly.
_RASTERIZE = 5_000


def umap(
    data: SpatialData | AnnData,
    key: str = _keys.DOMAIN,
    *,
    reps: str | Sequence[str] | Mapping[str, str] = "X_umap",
    table_key: str | None = None,
    ax: Axes | None = None,
    palette: Sequence[str] | Mapping[str, str] | None = None,
    size: float = 1.0,
    legend: bool = True,
    title: str | None = None,
) -> Axes | np.ndarray:
    """Draw domains (or any labels in ``obs``) in the plane of an embedding; of several, one panel for each.

    Nothing is computed: :func:`scanpy.tl.umap` makes the planes. Colours are those of :func:`storm.pl.domains`.

    Parameters
    ----------
    data
        The object.
    key
        Column of ``obs`` with the labels; rows without one are grey.
    reps
        Key of ``obsm`` with two columns, or several, or keys by the name of each panel.
    table_key
        The table; needed only where there are several.
    ax
        Axes to draw a single plane into; ``None`` makes a figure.
    palette
        Colours, as in :func:`storm.pl.domains`.
    size
        Factor on the size of the dots, which is smaller for more rows.
    legend
        Whether to draw a legend to the right of the axes.
    title
        Title of the axes; ``None`` is the name of the plane. Panels have the names of their planes.

    Returns
    -------
    Axes or ndarray
        The axes; of several planes an array of them.

    Raises
    ------
    KeyError
        If there is no such column or plane.
    ValueError
        If the column holds measurements, an entry of ``obsm`` has not two columns, ``palette`` lacks colours, or one
        ``ax`` is given for several planes.
    TypeError
        If ``ax`` is not a matplotlib axes, or the size is not a number.

    Examples
    --------
    .. plot::

        >>> import scanpy as sc
        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> table = sdata["table"]
        >>> storm.tl.embed(sdata, modality="st")
        >>> storm.tl.domains(sdata, 5)
        >>> sc.pp.neighbors(table, use_rep="X_storm")
        >>> sc.tl.umap(table)
        >>> ax = storm.pl.umap(sdata)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    check_positive(size, name="size")
    _, table = select_table(data, table_key)
    check_key(key, list(table.obs.columns), name="key", where="obs (storm.tl.domains writes it)")
    labels = categories(table.obs[key], key=key)
    names = list(labels.cat.categories)
    planes = _planes(reps)
    check_one_section(ax, list(planes))
    places = {name: _plane(table, rep) for name, rep in planes.items()}
    colours = [*colours_of(palette, names=names, key=key, uns=table.uns), _draw.MISSING]
    if ax is None:
        axes = plt.subplots(
            1, len(planes), figsize=(3.6 * len(planes) + 0.8, 3.4), squeeze=False, layout="constrained"
        )[1][0]
    else:
        axes = np.array([ax], dtype=object)
    codes = labels.cat.codes.to_numpy()
    area = size * float(np.clip(40_000 / max(len(codes), 1), 1.0, 20.0))
    for axis, (name, xy) in zip(axes, places.items(), strict=True):
        placed = np.isfinite(xy).all(axis=1)
        for code in [-1, *range(len(names))]:  # what has no label lies below
            rows = placed & (codes == code)
            if rows.any():
                axis.scatter(
                    xy[rows, 0], xy[rows, 1], s=area, color=colours[code], linewidths=0,
                    rasterized=len(codes) > _RASTERIZE,
                )  # fmt: skip
        axis.set(xticks=[], yticks=[])
        axis.set_title(name if title is None or len(planes) > 1 else title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    if len(planes) > 1 and title:
        axes[0].figure.suptitle(title, fontsize=10)
    if legend:
        missing = bool((codes < 0).any())
        shown = [*range(len(names)), *([len(names)] if missing else [])]
        _draw.legend(axes[-1], [[*map(str, names), "none"][k] for k in shown], [colours[k] for k in shown], title=key)
    return axes if len(planes) > 1 else axes[0]


def _planes(reps: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Keys of ``obsm`` by the name of their panel."""
    if isinstance(reps, Mapping):
        planes = dict(reps)
    else:
        planes = {rep: rep for rep in ([reps] if isinstance(reps, str) else reps)}
    if not planes:
        msg = "reps is empty; name a key of obsm, for example 'X_umap'"
        raise ValueError(msg)
    return planes


def _plane(table: AnnData, rep: str) -> np.ndarray:
    """The two columns of an entry of ``obsm``, shape (n_obs, 2)."""
    if rep not in table.obsm and rep.startswith("X_umap"):
        msg = f"obsm[{rep!r}] does not exist; run sc.pp.neighbors and sc.tl.umap(key_added={rep!r}) first"
        raise KeyError(msg)
    values = np.asarray(read_embedding(table, rep), dtype=np.float64)
    if values.shape[1] != 2:
        msg = f"obsm[{rep!r}] has {values.shape[1]} columns and is no plane; sc.tl.umap(key_added=…) makes one of it"
        raise ValueError(msg)
    return values
