"""``storm.io.to_xenium_explorer``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm import _keys
from storm._bridge.keys import Keys
from storm._bridge.select import select_table
from storm._bridge.standalone import Standalone
from storm.io._exported import csv_writer, is_pattern, read_groups, row_ids, sections_of, write_each

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Cells of Xenium Onboard Analysis: letters a to p and the number of the data set, or a number before version 1.3.
_CELL_ID = r"[a-p]{8}-\d+|\d+"
#: The former within another name.
_WITHIN = r"(?<![A-Za-z0-9])[a-p]{8}-\d+"
#: Column in which readers of Xenium's folders keep the names of cells.
_COLUMN = "cell_id"


def to_xenium_explorer(
    data: SpatialData | AnnData,
    path: str | Path,
    key: str = _keys.DOMAIN,
    *,
    n_classes: int = 5,
    overwrite: bool = False,
    cell_id_key: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> list[Path]:
    """Write domains or a score as cell groups that Xenium Explorer imports, with their colours.

    In Xenium Explorer: *Cells* → *Add cell groups* (upload), with the ``experiment.xenium`` of the same run open.

    Parameters
    ----------
    data
        The object.
    path
        File to write (``.csv``). Of several sections, each has a file with its name added.
    key
        Column of ``obs`` with the groups. Measurements are divided into classes with about equally many cells each.
    n_classes
        Number of these classes.
    overwrite
        Replace files that exist.
    cell_id_key
        Column of ``obs`` with Xenium's names of the cells. By default ``obs["cell_id"]`` where it holds such names,
        else the names of the rows; where these carry a prefix or suffix, the name in them.
    library_key, table_key
        Sections and table, as in :func:`to_loupe`.

    Returns
    -------
    list of Path
        The files, in the order of the sections' names.

    Raises
    ------
    KeyError
        If there is no such column or table.
    ValueError
        If names of rows are no names of Xenium's cells, two rows have the same one, or the column holds nothing.
    FileExistsError
        If a file exists and is not to be replaced.
    TypeError
        If ``data`` is something else.

    Notes
    -----
    The columns are ``cell_id``, ``group`` and ``color`` (hex code), those of the file ``…_cell_groups.csv`` that 10x
    Genomics publishes beside its data sets (for example ``Xenium_Prime_Ovarian_Cancer_FFPE_XRrun_cell_groups.csv``).
    Cells without a group are left out. The colours are those of :func:`storm.pl.domains`.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("xenium", n=50)
    >>> file, = storm.io.to_xenium_explorer(sdata, "groups.csv", "domain")
    >>> file.read_text().splitlines()[0]
    'cell_id,group,color'
    """
    sections = sections_of(data, Keys(table_key=table_key), library_key=library_key)

    def writer(section: Standalone) -> Callable[[Path], None]:
        _, table = select_table(section.make(), table_key)
        groups = read_groups(table, key, n_classes=n_classes)
        column = cell_id_key
        if column is None and _COLUMN in table.obs and is_pattern(table.obs[_COLUMN], _CELL_ID):
            column = _COLUMN
        what = "names of Xenium's cells"
        frame = pd.DataFrame(
            {
                "cell_id": row_ids(table, column, _CELL_ID, within=_WITHIN, option="cell_id_key", what=what),
                "group": groups.labels,
                "color": np.array([*groups.colours, ""], dtype=object)[groups.codes],
            }
        )
        return csv_writer(frame[groups.known])

    return write_each(sections, path, writer, overwrite=overwrite)
