"""``storm.io.to_loupe``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from storm import _keys
from storm._bridge.keys import Keys
from storm._bridge.select import select_table
from storm._bridge.standalone import Standalone
from storm.io._exported import csv_writer, read_groups, row_ids, sections_of, write_each

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Barcodes of Space Ranger: of spots, of bins of Visium HD, and of its segmented cells.
_BARCODE = r"(?:[ACGTN]{14,}|s_\d{3}um_\d{5}_\d{5}|cellid_\d{9})-\d+"


def to_loupe(
    data: SpatialData | AnnData,
    path: str | Path,
    keys: str | Sequence[str] = _keys.DOMAIN,
    *,
    n_classes: int = 5,
    overwrite: bool = False,
    barcode_key: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
) -> list[Path]:
    """Write domains and scores as a table of categories that Loupe Browser imports.

    In Loupe Browser: *Categories* → *Import categories*, with the ``.cloupe`` file of the same run open. Loupe chooses
    its own colours.

    Parameters
    ----------
    data
        The object.
    path
        File to write (``.csv``). Of several sections, each has a file with its name added: ``domains_A.csv``, … for
        ``domains.csv``.
    keys
        Columns of ``obs``, each of which becomes a category. Loupe has no scores of spots: measurements are divided
        into classes with about equally many spots each.
    n_classes
        Number of these classes.
    overwrite
        Replace files that exist.
    barcode_key
        Column of ``obs`` with the barcodes as they are in the ``.cloupe`` file. By default the names of the rows; where
        these carry a prefix or suffix, the barcode in them.
    library_key
        Column of ``obs`` that names the section of each row. A table that annotates several elements is divided into
        these without it.
    table_key
        The table; needed only where there are several.

    Returns
    -------
    list of Path
        The files, in the order of the sections' names.

    Raises
    ------
    KeyError
        If there is no such column or table.
    ValueError
        If names of rows are no barcodes, two rows have the same one, or a column holds nothing.
    FileExistsError
        If a file exists and is not to be replaced.
    TypeError
        If ``data`` is something else.

    Notes
    -----
    The file has a column ``Barcode`` and a column for each category, which is empty for a spot without a group; spots
    without any are left out. This is the form of ``analysis/clustering/*/clusters.csv`` of Space Ranger (10x Genomics,
    *Space Ranger outputs: secondary analysis*) and of *Import categories* in the manual of Loupe Browser.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy(n=50)
    >>> file, = storm.io.to_loupe(sdata, "truth.csv", "domain")
    >>> file.read_text().splitlines()[0]
    'Barcode,domain'
    """
    names = [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))
    if not names:
        msg = "keys is empty; name columns of obs"
        raise ValueError(msg)
    sections = sections_of(data, Keys(table_key=table_key), library_key=library_key)

    def writer(section: Standalone) -> Callable[[Path], None]:
        _, table = select_table(section.make(), table_key)
        groups = {name: read_groups(table, name, n_classes=n_classes) for name in names}
        frame = pd.DataFrame({name: one.labels for name, one in groups.items()})
        within = rf"(?<![A-Za-z0-9]){_BARCODE}"
        barcodes = row_ids(table, barcode_key, _BARCODE, within=within, option="barcode_key", what="barcodes")
        frame.insert(0, "Barcode", barcodes)
        grouped = pd.DataFrame({name: one.known for name, one in groups.items()}).any(axis=1)
        return csv_writer(frame[grouped])

    return write_each(sections, path, writer, overwrite=overwrite)
