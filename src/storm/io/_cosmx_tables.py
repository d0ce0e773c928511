"""Tables of CosMx as they are exported: counts and cells, by the number of the cell in its field of view."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm.data.genes import is_gene
from storm.io._genes import BY_NAME, report_left_out
from storm.io._vendor import check_named_once, need_columns, places, read_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: x and y of a cell's centre in global pixels.
CENTRE = ["CenterX_global_px", "CenterY_global_px"]
#: The same in pixels of its field of view.
LOCAL = ["CenterX_local_px", "CenterY_local_px"]
#: Area of a cell in pixels squared.
AREA = "Area"
#: Numbers of the matrix held at a time: its text is read in blocks, because it is dense and most of it is zero.
_BLOCK = 20_000_000
#: Column that holds no more than the number of a row.
_ROW_NUMBER = re.compile(r"(Unnamed: \d+|\s*)$")


@dataclass(frozen=True)
class CellCounts:
    """Counts of all cells.

    Attributes
    ----------
    names
        Cells as ``"<number>_<field of view>"``, shape (n,).
    genes
        Names of the genes.
    counts
        Shape (n, number of genes), CSR float32.
    text
        Columns of text, such as names of the cells, shape (n, …).
    facts
        What was left out.
    """

    names: pd.Index
    genes: list[str]
    counts: csr_matrix
    text: pd.DataFrame
    facts: dict[str, Any]


def key_columns(frame: pd.DataFrame, path: Path) -> tuple[str, str, list[str]]:
    """Columns with the number of the cell and its field of view, and further columns that name cells in text.

    Raises
    ------
    ValueError
        If there is no such column.
    """
    fov = [c for c in frame.columns if str(c).casefold() == "fov"]
    named = [c for c in frame.columns if str(c).casefold().replace("_", "") in ("cellid", "cell")]
    whole = [c for c in named if len(frame) == 0 or pd.api.types.is_integer_dtype(frame[c])]
    whole = [c for c in whole if str(c).casefold() != "cell"]
    if not fov or not whole:
        msg = f"{path} cannot be read as a table with the columns ['fov', 'cell_ID']; it has {list(frame.columns[:40])}"
        raise ValueError(msg)
    return whole[0], fov[0], [c for c in named if c != whole[0]]


def cell_names(frame: pd.DataFrame, cell: str, fov: str, path: Path) -> pd.Index:
    """Cells of a table as ``"<number>_<field of view>"``: numbers begin anew in every field of view."""
    for column in (cell, fov):
        if not pd.api.types.is_integer_dtype(frame[column]):
            msg = f"{path}: column {column!r} holds {frame[column].dtype} in place of whole numbers"
            raise ValueError(msg)
    return pd.Index(frame[cell].astype(str) + "_" + frame[fov].astype(str))


def read_cells(path: Path) -> pd.DataFrame:
    """The table of cells, indexed by cell, ``fov`` as a category of text."""
    frame = read_table(path)
    cell, fov, _ = key_columns(frame, path)
    need_columns(frame, CENTRE, path)
    frame.index = cell_names(frame, cell, fov, path)
    check_named_once(frame.index, path, what="cells")
    frame = frame.rename(columns={fov: "fov", cell: "cell_ID"})
    frame = frame.drop(columns=[c for c in frame.columns if _ROW_NUMBER.match(str(c))])
    frame["fov"] = pd.Categorical(frame["fov"].astype(str))
    frame[CENTRE] = places(frame, CENTRE, path)
    return frame


def read_cell_counts(path: Path) -> CellCounts:
    """Counts of the cells, without the vendor's rows of transcripts outside of cells (number 0) and its controls.

    Raises
    ------
    ValueError
        If the file is damaged, a cell occurs twice, or a count is missing, negative or text.
    """
    from scipy.sparse import csr_matrix, vstack

    header = read_table(path, nrows=50)
    cell, fov, named = key_columns(header, path)
    others = [c for c in header.columns if c not in (cell, fov, *named) and not _ROW_NUMBER.match(str(c))]
    text = dict.fromkeys(others, False)
    parts: list[csr_matrix] = []
    names: list[pd.Index] = []
    labels: list[pd.DataFrame] = []
    outside = 0
    for k, block in enumerate(_blocks(path, rows=max(1, _BLOCK // max(1, len(others))))):
        in_cell = block[cell].to_numpy() != 0
        outside += int((~in_cell).sum())
        block = block[in_cell]
        values = np.zeros((len(block), len(others)), dtype=np.float32)
        for column, name in enumerate(others):
            numeric = pd.to_numeric(block[name], errors="coerce")
            is_text = bool(numeric.isna().all()) and len(block) > 0
            if is_text and (k == 0 or text[name]):
                text[name] = True
                continue
            if text[name] or numeric.isna().any():
                msg = f"{path}: column {name!r} holds {_bad(block[name], numeric)} in place of a count"
                raise ValueError(msg)
            values[:, column] = numeric.to_numpy(dtype=np.float32)
        if not np.isfinite(values).all() or (values < 0).any():
            msg = f"{path} holds counts that are negative or infinite"
            raise ValueError(msg)
        parts.append(csr_matrix(values))
        names.append(cell_names(block, cell, fov, path))
        labels.append(block[named])
    index = names[0].append(names[1:]) if names else pd.Index([])
    if not len(index):
        msg = f"{path}: the table of 0 observations × {len(others)} genes holds no counts"
        raise ValueError(msg)
    check_named_once(index, path, what="cells")
    control = ~is_gene([str(name) for name in others])
    gene = ~control & ~np.array([text[name] for name in others], dtype=bool)
    if not gene.any():
        msg = f"{path} holds no column of a gene; it has {list(header.columns[:40])}"
        raise ValueError(msg)
    left_out = {BY_NAME: int(control.sum())} if control.any() else {}
    report_left_out(left_out, path)
    facts = {
        "features_left_out": left_out,
        "text_columns_left_out": sum(text.values()),
        "rows_outside_cells": outside,
    }
    genes = pd.Index([str(name) for name, keep in zip(others, gene, strict=True) if keep])
    if not genes.is_unique:
        msg = f"{path} has a gene in two columns: {list(genes[genes.duplicated()])}"
        raise ValueError(msg)
    counts = csr_matrix(vstack(parts, format="csr")[:, np.flatnonzero(gene)])
    return CellCounts(
        index, list(genes), counts, pd.concat(labels), {key: value for key, value in facts.items() if value}
    )


def _bad(values: pd.Series, numeric: pd.Series) -> str:
    """The first cell of a column that is not a number, for an error."""
    bad = values[numeric.isna()]
    value = (bad if len(bad) else values).iloc[0]
    return "an empty cell" if pd.isna(value) else repr(value)


def _blocks(path: Path, *, rows: int) -> Iterator[pd.DataFrame]:
    """A table in blocks of rows; an error that names the file if it is damaged."""
    try:
        with pd.read_csv(path, chunksize=rows) as blocks:
            yield from blocks
    except (OSError, EOFError, zlib.error, pd.errors.ParserError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as a table: {error}"
        raise ValueError(msg) from error
