"""``storm.pp.sum_windows``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from storm import __version__
from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.study import open_study
from storm._bridge.workspace import write_all
from storm._checks import check_whole
from storm._inference.neighbourhoods import section_windows
from storm._keys import WINDOW_COUNTS
from storm.data.windows import N_CELLS

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def sum_windows(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    *,
    n: int = N_CELLS,
    layer: str | None = None,
    key_added: str = WINDOW_COUNTS,
    library_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Add the counts of each cell and its nearest ones, as another target for genes from H&E.

    A cell of an imaging platform holds some tens or hundreds of counts, most of whose variation is noise. Sums over
    neighbours are less noisy, and say less: of the neighbourhood, not of the cell. Correlations with sums are higher
    and cannot be compared with those of single cells; on drawn sections they double, whether a head was trained on
    cells or (``storm.tl.fit_expression(layer="window_counts")``) on sums. Two cells share counts if their windows
    overlap, so that what is held out needs a gap, see :func:`storm.pp.split_along_x`.

    Parameters
    ----------
    data
        A section, a table of several, or a list. Sums never cross from one section into another.
    n
        Cells that are summed: the cell itself and its n − 1 nearest.
    layer
        Layer with raw counts; ``None`` is ``X``.
    key_added
        Name of the new layer.
    library_key, table_key, shapes_key, coordinate_system, um_per_px, copy
        As in :func:`storm.tl.embed`.

    Returns
    -------
    SpatialData, AnnData, list, or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets ``layers[key_added]``, sparse, float32,
        shape (n_obs, n_vars), with empty rows for cells without a place, and ``uns["storm"][key_added]``.

    Raises
    ------
    KeyError, TypeError, ValueError
        If an element does not exist or fit, or values are not counts. ``data`` is then as it was.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.pp.sum_windows(sdata)
    >>> sdata["table"].layers["window_counts"].shape
    (150, 306)
    """
    n = check_whole(n, name="n", least=2)
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    study = open_study(data, keys, library_key=library_key, image=False, copy=copy, keys_added={"layers": [key_added]})
    pairs: dict[int, list[np.ndarray]] = {id(work): [] for work in study.works}
    for section in study:
        with section.named():
            spots = spots_of(section.open(), counts=True)
            members = section_windows(spots, kind="knn", size=n).index
        whole = np.arange(len(members)) if section.member is None else np.asarray(section.member.rows)
        cell, slot = np.nonzero(members >= 0)
        pairs[id(section.work)].append(np.stack([whole[cell], whole[members[cell, slot]]]))
    facts = {"storm_version": __version__, "n": n, "layer": layer or "X"}
    results = []
    for work in study.works:
        at = np.concatenate(pairs[id(work)], axis=1)
        table = work.table
        sums = csr_matrix((np.ones(at.shape[1], np.float32), (at[0], at[1])), shape=(table.n_obs, table.n_obs))
        counts = csr_matrix(table.X if layer is None else table.layers[layer], dtype=np.float32)
        results.append((work, {"layers": {key_added: csr_matrix(sums @ counts)}, "uns": {key_added: facts}}))
    write_all(results)
    return study.copies(data) if copy else None
