"""What the exports to viewers have in common: sections and their files, groups and their colours, names of rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.keys import Keys
from storm._bridge.placed import read_labels
from storm._bridge.select import check_container, select_table
from storm._bridge.standalone import Standalone, standalone
from storm._checks import check_key, check_whole
from storm._files import replacing
from storm._keys import storable
from storm._logging import logger
from storm._palette import palette, stored_colours

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Whole numbers with more distinct values than this are measurements, such as counts, and not labels.
_MOST = 100


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each row, as a viewer shows it.

    Attributes
    ----------
    codes
        Group of each row, shape (n_obs,), int; -1 for rows without one.
    names
        Names of the groups.
    colours
        Hex code of each group.
    """

    codes: np.ndarray
    names: list[str]
    colours: list[str]

    @property
    def known(self) -> np.ndarray:
        """Rows that have a group, bool, shape (n_obs,)."""
        return self.codes >= 0

    @property
    def labels(self) -> np.ndarray:
        """Name of the group of each row, shape (n_obs,), text; empty for rows without one."""
        return np.array([*self.names, ""], dtype=object)[self.codes]


def sections_of(
    data: SpatialData | AnnData, keys: Keys, *, library_key: str | None, image_key: Any = None
) -> list[Standalone]:
    """The sections of one object, each of which has a file of its own.

    Raises
    ------
    TypeError
        If ``data`` is neither a SpatialData nor an AnnData.
    KeyError, ValueError
        As :func:`~storm._bridge.standalone.standalone`, or if there is no table.
    """
    check_container(data)
    select_table(data, keys.table_key)
    return standalone(data, keys, library_key=library_key, image_key=image_key, counts=False)


def write_each(
    sections: Sequence[Standalone],
    path: str | Path,
    writer: Callable[[Standalone], Callable[[Path], None]],
    *,
    overwrite: bool,
) -> list[Path]:
    """Write a file for each section, each of which is whole or not there at all; missing folders are made.

    Parameters
    ----------
    sections
        The sections.
    path
        File to write, as the user named it; see :func:`files_of`.
    writer
        Reads a section, and returns a function that writes it. All are read before the first is written.
    overwrite
        Whether files may be replaced.

    Returns
    -------
    list of Path
        The files.
    """
    files = files_of(path, sections, overwrite=overwrite)
    for file, write in zip(files, [writer(section) for section in sections], strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as scratch:
            write(scratch)
    return files


def files_of(path: str | Path, sections: Sequence[Standalone], *, overwrite: bool) -> list[Path]:
    """File of each section: the path itself for a single one, ``<stem>_<section><suffix>`` for each of several.

    Raises
    ------
    FileExistsError
        If a file exists and is not to be replaced, or a folder has its name.
    ValueError
        If names of sections differ by characters only that no file name has.
    """
    path = Path(path)
    if len(sections) == 1:
        files = [path]
    else:
        files = [path.with_name(f"{path.stem}_{storable(section.name)}{path.suffix}") for section in sections]
    if len(set(files)) < len(files):
        names = [section.name for section in sections]
        msg = f"the names of the sections {names} are not different as names of files; rename them"
        raise ValueError(msg)
    for file in files:
        if file.is_dir() or (file.exists() and not overwrite):
            what = (
                "is a folder; give the name of a file" if file.is_dir() else "exists; give another name, or overwrite"
            )
            msg = f"{file} {what}"
            raise FileExistsError(msg)
    return files


def csv_writer(frame: pd.DataFrame) -> Callable[[Path], None]:
    """Function that writes a frame without its index."""
    return lambda scratch: frame.to_csv(scratch, index=False, encoding="utf-8")


def read_groups(table: AnnData, key: str, *, n_classes: int) -> Groups:
    """Read a column of ``obs`` as groups with colours.

    Parameters
    ----------
    table
        The table.
    key
        Column of labels, or of measurements: these are divided into classes with about equally many rows each, whose
        names begin with a number and give the limits.
    n_classes
        Number of these classes.

    Returns
    -------
    Groups
        Labels have the colours in ``uns["<key>_colors"]``, or those that :func:`storm.pl.domains` draws.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If no row has a value.
    """
    from matplotlib.colors import to_hex

    check_whole(n_classes, name="n_classes", least=2)
    numbers = read_numbers(table, key)
    if numbers is not None:
        return _classes(numbers, key, n_classes=n_classes)
    labels = read_labels(table, key, least=0)
    if not labels.names:
        msg = f"obs[{key!r}] has no value in any of {table.n_obs} rows: there is nothing to export"
        raise ValueError(msg)
    column = table.obs[key]
    if not isinstance(column.dtype, pd.CategoricalDtype):
        if pd.api.types.is_float_dtype(column):
            column = column.astype("Int64")
        column = column.astype("category")
    every = [str(name) for name in column.cat.categories]
    colours = stored_colours(table.uns.get(f"{key}_colors"), len(every)) or palette(len(every))
    by_name = dict(zip(every, map(to_hex, colours), strict=True))
    return Groups(labels.codes, labels.names, [by_name[name] for name in labels.names])


def read_numbers(table: AnnData, key: str, *, option: str = "key") -> np.ndarray | None:
    """A column of measurements as float64, shape (n_obs,), NaN where there is none; ``None`` if it holds labels.

    The ``option`` that named the column is named in the error.

    Raises
    ------
    KeyError
        If there is no such column.
    """
    where = "obs (storm.tl.domains writes 'storm_domain')" if option == "key" else "obs"
    check_key(key, list(table.obs.columns), name=option, where=where)
    column = table.obs[key]
    if isinstance(column.dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(column):
        return None
    if pd.api.types.is_bool_dtype(column):
        return None
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = np.where(np.isfinite(values), values, np.nan)
    known = values[~np.isnan(values)]
    whole = np.array_equal(known, np.round(known))
    return None if whole and len(np.unique(known)) <= _MOST else values


def _classes(values: np.ndarray, key: str, *, n_classes: int) -> Groups:
    """Measurements in classes of about equally many rows, from low to high."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    known = ~np.isnan(values)
    if not known.any():
        msg = f"obs[{key!r}] has no value in any of {len(values)} rows: there is nothing to export"
        raise ValueError(msg)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, n_classes + 1)))
    codes = np.full(len(values), -1)
    codes[known] = np.clip(np.searchsorted(edges, values[known], side="left") - 1, 0, max(0, len(edges) - 2))
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    pairs = list(pairwise(edges))
    width = len(str(len(pairs)))
    names = [f"{number:0{width}}: {low:.3g} to {high:.3g}" for number, (low, high) in enumerate(pairs, start=1)]
    shades = mpl.colormaps["viridis"](np.linspace(0, 1, len(names)))
    return Groups(codes, names, [to_hex(shade) for shade in shades])


def row_ids(table: AnnData, column: str | None, pattern: str, *, within: str, option: str, what: str) -> np.ndarray:
    """Names of the rows as the viewer knows them.

    Parameters
    ----------
    table
        The table of one section.
    column
        Column of ``obs`` with the names, which are taken as they are. ``None`` for the names of the rows: where these
        were made different with a prefix or suffix (as by ``anndata.concat``), the one part that fits ``within``.
    pattern
        Regular expression of a name.
    within
        Regular expression of a name as a part of another one.
    option
        The argument that gives ``column``, for errors.
    what
        What the names are, for errors.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the names do not fit ``pattern``, a name is missing, or two rows have the same one.
    """
    if column is not None:
        check_key(column, list(table.obs.columns), name=option, where="obs")
        given = pd.Series(table.obs[column].to_numpy(dtype=object))
        if given.isna().any():
            msg = f"{option}={column!r}: {int(given.isna().sum())} of {len(given)} rows have no value there"
            raise ValueError(msg)
        ids = given.map(str)
    else:
        names = pd.Series(table.obs_names.to_numpy(dtype=object)).map(str)
        ids = names
        if not names.str.fullmatch(pattern).all():
            parts = [re.findall(within, name) for name in names]
            unfit = [name for name, found in zip(names, parts, strict=True) if len(found) != 1]
            if unfit:
                some = ", ".join(map(repr, unfit[:3]))
                msg = (
                    f"{len(unfit)} of {len(names)} rows have names that are no {what}, e.g. {some}; name the column of "
                    f"obs that holds them: {option}="
                )
                raise ValueError(msg)
            ids = pd.Series([found[0] for found in parts])
            logger.info("%s are parts of the names of the rows: %r of %r", what, ids.iloc[0], names.iloc[0])
    if not ids.is_unique:
        twice = ", ".join(map(repr, ids[ids.duplicated()].unique()[:3]))
        msg = (
            f"several rows have the same {what}, e.g. {twice}: if they are of several sections, name the column of obs "
            f"that tells these apart: library_key="
        )
        raise ValueError(msg)
    return ids.to_numpy(dtype=str)


def is_pattern(names: Any, pattern: str) -> bool:
    """Whether all names fit a regular expression."""
    return all(re.fullmatch(pattern, str(name)) for name in names)
