"""Stores that commands read from and write to: opened, checked before anything is computed, and written whole."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm._bridge import missing, persist, recover, select_table
from storm._bridge.remembered import remembered_entries
from storm._files import check_folder_writable, replacing
from storm.cli._foreign import explain, is_zarr, refuse

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

#: Attribute of the root of a SpatialData store.
_SIGN = "spatialdata_attrs"
_KINDS = ("images", "labels", "points", "shapes", "tables")


@dataclass
class Section:
    """A stored section on which a command works.

    Attributes
    ----------
    sdata
        The section as it was read.
    path
        Its store, as the user named it.
    out
        Store to write instead, which does not exist yet; ``None`` adds the results to the section's own store.
    tables, shapes
        Elements that the section had when it was opened.
    var
        Columns of the genes that each table had when it was opened.
    """

    sdata: SpatialData
    path: Path
    out: Path | None
    tables: dict[str, Any] = field(init=False)
    shapes: dict[str, Any] = field(init=False)
    var: dict[str, pd.DataFrame] = field(init=False)

    def __post_init__(self) -> None:
        self.tables, self.shapes = dict(self.sdata.tables), dict(self.sdata.shapes)
        self.var = {name: table.var.copy() for name, table in self.tables.items()}

    def new_tables(self) -> list[str]:
        """Names of the tables that were added or replaced since the section was opened."""
        return [name for name, table in self.sdata.tables.items() if self.tables.get(name) is not table]

    def new_var(self, table_key: str | None) -> list[str]:
        """Columns of the genes of a table that were added or changed since the section was opened."""
        key, table = select_table(self.sdata, table_key)
        old = self.var[str(key)]
        return [name for name in table.var if name not in old or not table.var[name].equals(old[name])]

    def new_shapes(self) -> list[str]:
        """Names of the shapes that were added or replaced since the section was opened."""
        return [name for name, shapes in self.sdata.shapes.items() if self.shapes.get(name) is not shapes]


def open_section(path: Path, out: Path | None, *, table_key: str | None) -> Section:
    """Open a section after checking that the result of a command can be stored.

    Parameters
    ----------
    path
        The section's store.
    out
        Store to write, or ``None`` for the section's own.
    table_key
        The table that results go to, as the user named it.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    FileExistsError
        If ``out`` exists.
    PermissionError
        If the results cannot be written.
    ValueError
        If ``path`` is not a SpatialData store, or ``out`` lies inside it.
    KeyError
        If there is no such table.
    """
    if out is not None:
        check_new_path(out, inside=path)
    section = Section(read_store(path, repair=out is None), path, out)
    if out is None:
        name = None
        if section.sdata.tables or table_key is not None:
            name, _ = select_table(section.sdata, table_key)
        _check_writable(path, name)
    return section


def read_store(path: Path, *, repair: bool = False) -> SpatialData:
    """Open a SpatialData store.

    Parameters
    ----------
    path
        The store.
    repair
        Whether what a killed process left half written is put in order first, by those who write to the store.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If it is not a SpatialData store, one of its elements cannot be read, or a killed process took one away. What
        :mod:`storm.io` reads is named, with the line to type.
    """
    import spatialdata
    import zarr

    if not path.exists():
        msg = f"{path} does not exist"
        raise FileNotFoundError(msg)
    refuse([path])
    # The journal of a run lies beside the store, under its name: "." and "folder/.." are not names.
    absolute = path.resolve()
    if repair:
        recover(absolute)
    elif gone := missing(absolute):
        msg = (
            f"{path} lacks {', '.join(gone)}, which a command was replacing when it was killed; give that command "
            "again: it puts them back before it begins, and nothing is lost"
        )
        raise ValueError(msg)
    try:
        attributes = dict(zarr.open_group(absolute, mode="r").attrs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zarr.errors.BaseZarrError) as error:
        other = "" if is_zarr(path) else "; storm read --help lists what can be read into one"
        msg = f"{path} is not a zarr store, or its metadata are damaged ({type(error).__name__}){other}"
        raise ValueError(msg) from error
    if _SIGN not in attributes:
        known = explain(path)
        msg = f"{path} {known or 'is a zarr store, but not of a SpatialData object; write one with sdata.write(path)'}"
        raise ValueError(msg)
    try:
        return spatialdata.read_zarr(absolute)
    except Exception as error:  # damaged files lead to errors of any kind in the readers
        damaged = [kind for kind in _KINDS if not _is_readable(absolute, kind)]
        elements = [f"{kind}/{one.name}" for kind in damaged for one in sorted((absolute / kind).glob("*/"))]
        place = f"one of {', '.join(elements)}" if elements else "its metadata"
        msg = f"{path} is damaged: {place} cannot be read ({type(error).__name__}: {' '.join(str(error).split())})"
        raise ValueError(msg) from error


def is_store(path: Path) -> bool:
    """Whether a SpatialData store lies at a path, readable or not."""
    return _SIGN in attributes_of(path)


def attributes_of(group: Path) -> dict[str, Any]:
    """Attributes of a stored group of zarr 3 or 2; empty where there is none, or it is damaged."""
    for name, entry in (("zarr.json", "attributes"), (".zattrs", None)):
        try:
            found = json.loads((group / name).read_text(encoding="utf-8"))
            return dict(found if entry is None else found.get(entry, {}))
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return {}


def read_object(path: Path) -> SpatialData | AnnData:
    """Open a SpatialData store, or an AnnData (``.h5ad``), to look at it.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If it is neither, or damaged.
    """
    if path.suffix != ".h5ad":
        return read_store(path)
    from anndata import read_h5ad

    if not path.exists():
        msg = f"{path} does not exist"
        raise FileNotFoundError(msg)
    try:
        return read_h5ad(path)
    except Exception as error:  # as of a store
        msg = f"{path} cannot be read as .h5ad ({type(error).__name__}: {' '.join(str(error).split())})"
        raise ValueError(msg) from error


def _is_readable(path: Path, kind: str) -> bool:
    """Whether spatialdata reads all elements of one kind."""
    import spatialdata

    try:
        spatialdata.read_zarr(path, selection=(kind,))
    except Exception:  # noqa: BLE001  see read_store
        return False
    return True


def check_new_path(
    path: Path,
    *,
    inside: Path | None = None,
    option: str = "--out",
    advice: str = "give another name, or remove it",
) -> None:
    """Raise unless a file or folder of this name can be made.

    Parameters
    ----------
    path
        What is to be written. Missing folders above it are made later.
    inside
        A store in which it must not lie.
    option
        The option that named it, for the error.
    advice
        What to do if it exists.

    Raises
    ------
    FileExistsError
        If it exists.
    ValueError
        If it lies in the store.
    PermissionError
        If the nearest folder above it that exists cannot be written to.
    """
    absolute = Path(os.path.abspath(path))
    if os.path.lexists(absolute):
        msg = f"{option} {path} exists; {advice}"
        raise FileExistsError(msg)
    if inside is not None and absolute.resolve().is_relative_to(inside.resolve()):
        msg = f"{option} {path} lies inside the store {inside}; give a name outside of it"
        raise ValueError(msg)
    check_parent(absolute, option=option, shown=path)


def check_parent(path: Path, *, option: str, shown: Path) -> None:
    """Raise unless the folder of a file to be written exists or can be made.

    Raises
    ------
    PermissionError
        If the nearest folder above it that exists cannot be written to.
    NotADirectoryError
        If something above it is a file.
    """
    above = next(parent for parent in Path(os.path.abspath(path)).parents if parent.exists())
    if not above.is_dir():
        msg = f"{option} {shown} cannot be written, because {above} is a file; give another name"
        raise NotADirectoryError(msg)
    if not os.access(above, os.W_OK | os.X_OK):
        msg = f"{option} {shown} cannot be written, because the folder {above} is read-only; give another name"
        raise PermissionError(msg)


def _check_writable(path: Path, table_key: str | None) -> None:
    """Raise unless new entries can be added to a store and to one of its tables."""
    store = path.resolve()
    folders = [store, *(store / kind for kind in ("shapes", "tables"))]
    if table_key is not None:
        table = store / "tables" / table_key
        folders += [table, *(table / slot for slot in ("obs", "var", "obsm", "layers", "uns", "uns/storm"))]
    for folder in folders:
        if folder.is_dir():
            place = "it" if folder == store else f"its folder {folder.relative_to(store)}"
            check_folder_writable(
                folder,
                message=f"{path} cannot take the result, because {place} cannot be written",
                advice="give --out NEW.zarr, which writes the section and the result into a new store",
            )


def store(
    section: Section,
    *,
    table_key: str | None,
    obs: list[str] | None = None,
    obsm: list[str] | None = None,
    layers: list[str] | None = None,
    var: list[str] | None = None,
    uns: list[str] | None = None,
    colours: list[str] | None = None,
) -> Path:
    """Store what is new: into the section's own store, or together with the whole section into a new one.

    Parameters
    ----------
    section
        The section, after the command.
    table_key
        The table that holds the results.
    obs, obsm, layers, var, uns, colours
        Names of the new entries of the table; entries of a table that is new itself are stored with it.

    Returns
    -------
    Path of the store that was written, as the user named it.
    """
    if section.out is not None:
        write_store(section.sdata, section.out)
        return section.out
    tables, shapes = section.new_tables(), section.new_shapes()
    key, table = select_table(section.sdata, table_key)
    told = {} if key in tables else remembered_entries(table)  # of a table that is new, all is stored
    obs, uns = [*(obs or ()), *told.get("obs", ())], [*(uns or ()), *told.get("uns", ())]
    if tables:
        persist(
            section.sdata, table_key, obs=told.get("obs", ()), uns=told.get("uns", ()), tables=tables, shapes=shapes
        )
    else:
        persist(
            section.sdata,
            table_key,
            obs=obs,
            obsm=obsm or (),
            layers=layers or (),
            var=var or (),
            uns=uns,
            colours=colours or (),
            shapes=shapes,
        )
    return section.path


def write_store(sdata: SpatialData, out: Path, *, overwrite: bool = False) -> None:
    """Write a whole store, which appears under its name when it is complete.

    Raises
    ------
    FileExistsError
        If ``out`` has appeared in the meantime and is not to be overwritten.
    """
    out = Path(os.path.abspath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        sdata.write(scratch)
        if out.exists() and not overwrite:
            msg = f"{out} has appeared while its content was computed; it is left as it is: give another name"
            raise FileExistsError(msg)
