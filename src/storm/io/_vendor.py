"""What the readers of vendors' folders share: finding files, reading them, and the table and attributes they return."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._keys import READ
from storm._logging import logger, warn
from storm.io._recognise import BELOW, holds, recognise
from storm.io._scale import POSSIBLE_UM

if TYPE_CHECKING:
    from anndata import AnnData

#: Coordinates from here on, in pixels or µm, are as good as infinite: no slide is a kilometre wide.
FARTHEST = 1e9
#: Bytes compared at a time.
_BLOCK = 1 << 20


def find_folder(path: str | Path, *, platform: str, signs: Iterable[str]) -> Path:
    """The vendor's folder itself: ``path``, or ``outs`` below it.

    Parameters
    ----------
    path
        What the user gave.
    platform
        Name of the platform, for errors.
    signs
        Patterns of files, one of which such a folder holds.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it holds none of the files.
    """
    path = Path(path)
    if not path.is_dir():
        msg = f"there is no folder {path}; give the folder that the {platform} software wrote"
        raise FileNotFoundError(msg)
    signs = list(signs)
    for folder in (path, path / BELOW):
        if holds(folder, signs):
            return folder
    msg = f"{path} is not a {platform} folder: it holds none of {signs}, but {listed(path)}"
    if known := recognise(path):
        msg = f"{msg}; storm.io.{known[0]} reads {known[1]}"
    raise FileNotFoundError(msg)


def listed(folder: Path, n: int = 12) -> str:
    """Names of up to ``n`` files of a folder, for errors."""
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir()) if folder.is_dir() else []
    return (", ".join(names[:n]) + (", …" if len(names) > n else "")) or "nothing"


def need(folder: Path, *names: str, what: str) -> Path:
    """The first of several files that exists; an error that lists the folder if none does."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    msg = f"{what} is missing: {folder} holds no {' or '.join(names)}, but {listed(folder)}"
    raise FileNotFoundError(msg)


def need_packed(folder: Path, name: str, *, what: str) -> Path:
    """A file, plain or gzipped.

    Raises
    ------
    FileNotFoundError
        If it is there in neither form.
    ValueError
        If it is there in both, and their contents differ.
    """
    file = need(folder, name, name + ".gz", what=what)
    packed = folder / (name + ".gz")
    if file != packed and packed.is_file() and not _same_text(file, packed):
        msg = f"{folder} holds {file.name} and {packed.name}, and they differ: remove the one that is not meant"
        raise ValueError(msg)
    return file


def _same_text(plain: Path, packed: Path) -> bool:
    try:
        with plain.open("rb") as one, gzip.open(packed) as other:
            while True:
                left, right = one.read(_BLOCK), other.read(_BLOCK)
                if left != right:
                    return False
                if not left:
                    return True
    except (OSError, EOFError, zlib.error):
        return False


def read_json(path: Path) -> dict[str, Any]:
    """The object that a json file holds; an error that names the file if it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        msg = f"{path} is not a json file: {error}; copy it again"
        raise ValueError(msg) from error
    if not isinstance(value, dict):
        msg = f"{path} holds a {type(value).__name__}, not an object of names and values; copy it again"
        raise ValueError(msg)
    return value


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """A table in csv (also gzipped) or parquet; an error that names the file if it is damaged.

    Parameters
    ----------
    path
        The file.
    options
        Of pandas' ``read_csv`` or ``read_parquet``.
    """
    try:
        return pd.read_parquet(path, **options) if path.suffix == ".parquet" else pd.read_csv(path, **options)
    except (
        ValueError, OSError, EOFError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError, zlib.error
    ) as error:  # fmt: skip
        # pandas' and pyarrow's own errors are ValueErrors or OSErrors; the others are those of decompression
        msg = f"{path} cannot be read as a table: {error}"
        raise ValueError(msg) from error


def need_columns(frame: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raise unless a table has all of the columns."""
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        msg = f"{path} has no columns {missing}; it has {list(frame.columns[:40])}"
        raise ValueError(msg)


def numbers(frame: pd.DataFrame, columns: list[str], path: Path) -> np.ndarray:
    """Columns of a table as float64, shape (n, number of columns); an error that names a cell with text."""
    need_columns(frame, columns, path)
    out = np.empty((len(frame), len(columns)), dtype=np.float64)
    for k, column in enumerate(columns):
        values = pd.to_numeric(frame[column], errors="coerce")
        text = frame[column][values.isna() & frame[column].notna()]
        if len(text) or pd.api.types.is_bool_dtype(frame[column]) or np.iscomplexobj(values):
            value = text.iloc[0] if len(text) else frame[column].iloc[0]
            msg = f"{path}: column {column!r} holds {value!r} in place of a number"
            raise ValueError(msg)
        out[:, k] = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return out


def places(frame: pd.DataFrame, columns: list[str], path: Path) -> np.ndarray:
    """X and y of every row, float64 (n, 2); an error that names a row without a place.

    Parameters
    ----------
    frame
        Indexed by the names of the rows.
    columns
        Those of x and of y.
    path
        The file, for the error.
    """
    xy = numbers(frame, columns, path)
    bad = ~(np.abs(xy) < FARTHEST).all(axis=1)
    if bad.any():
        msg = (
            f"{int(bad.sum())} of {len(bad)} positions in {path} are NaN or infinite ({', '.join(columns)}), e.g. of "
            f"{str(frame.index[bad][0])!r}: {xy[bad][0].tolist()}; copy the file again, or remove these rows from it "
            f"and from the counts"
        )
        raise ValueError(msg)
    return xy


def number(value: Any) -> float | None:
    """A finite number above zero, or ``None`` for anything else, such as a word, zero or text with a decimal comma."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if isfinite(value) and value > 0 else None


def possible_scale(um_per_px: float) -> bool:
    """Whether a number can be the µm per pixel of a picture of a section."""
    return POSSIBLE_UM[0] <= um_per_px <= POSSIBLE_UM[1]


def check_scale(scale: tuple[float, str]) -> None:
    """Raise if a number, with its source, cannot be µm per pixel."""
    if not possible_scale(scale[0]):
        low, high = POSSIBLE_UM
        msg = f"{scale[0]:.4g} µm per pixel, from {scale[1]}, is impossible: give a number from {low:g} to {high:g}"
        raise ValueError(msg)


def as_text(ids: pd.Series) -> pd.Series:
    """Identifiers as text, however a file stores them: bytes, numbers or text."""
    if pd.api.types.is_float_dtype(ids) and (ids.dropna() == ids.dropna().round()).all():
        ids = ids.astype("Int64")
    if len(ids) and isinstance(ids.iloc[0], bytes):
        return ids.map(lambda value: value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))
    return ids.astype(str)


def check_named_once(index: pd.Index, path: Path, *, what: str) -> None:
    """Raise if a file names a row twice."""
    if not index.is_unique:
        twice = index[index.duplicated()].unique()
        msg = f"{path} names {len(twice)} {what} twice, e.g. {twice[0]!r}: which row is theirs is unknown"
        raise ValueError(msg)


def storable(obs: pd.DataFrame, *, taken: Iterable[str] = ()) -> pd.DataFrame:
    """Columns of a vendor's table under names and in types that SpatialData stores.

    Parameters
    ----------
    obs
        The table.
    taken
        Names of columns that will be added; a column of the vendor whose name differs from them, or from an earlier
        one, in nothing but upper and lower case gets the prefix ``vendor_``.
    """
    seen = {name.casefold() for name in taken}
    columns: dict[str, Any] = {}
    for name in obs.columns:
        new = re.sub(r"[^A-Za-z0-9_.-]", "_", str(name)).lstrip("_") or "column"
        while new.casefold() in seen or new.casefold() == "_index":
            new = f"vendor_{new}"
        seen.add(new.casefold())
        values = obs[name]
        if values.dtype == object and not values.map(lambda v: isinstance(v, str)).all():
            values = as_text(values.where(values.notna(), "")) if values.notna().any() else values.astype(float)
        columns[new] = values
    return pd.DataFrame(columns, index=obs.index)


def as_table(table: AnnData, *, region: str, instance_key: str, uns: Mapping[str, Any] | None = None) -> AnnData:
    """The table as STORM's readers return it: CSR float32 counts that annotate one element.

    Parameters
    ----------
    table
        Changed in place.
    region
        Name of the annotated shapes.
    instance_key
        ``obs`` column with their instances.
    uns
        Added to ``uns``.
    """
    from scipy.sparse import csr_matrix
    from spatialdata.models import TableModel

    table.X = csr_matrix(table.X, dtype=np.float32)
    table.obs["region"] = pd.Categorical([region] * table.n_obs)
    table.uns.update(uns or {})
    return TableModel.parse(table, region=region, region_key="region", instance_key=instance_key)


def read_facts(reader: str, *, folder: Path, scale: tuple[float, str], more: Mapping[str, Any]) -> dict[str, Any]:
    """``attrs`` of an object: the platform, and what was read with which scale.

    Parameters
    ----------
    reader
        Name of the reader.
    folder
        The vendor's folder.
    scale
        µm per pixel and its source.
    more
        Further facts; those that are ``None``, zero or empty are left out.
    """
    um_per_px, source = scale
    facts = {"reader": reader, "folder": folder.name, "um_per_px": float(um_per_px), "um_per_px_source": source}
    return {"platform": reader, READ: facts | {key: value for key, value in more.items() if value not in (None, 0, {})}}


def choose_image(
    image: Any, *, in_folder: Callable[[], Path | None], reduced: Mapping[str, Path], missing: str
) -> tuple[Path | None, str | None]:
    """Which picture is meant by ``image=``: its path, and ``"hires"`` or ``"lowres"`` for a reduced one.

    Parameters
    ----------
    image
        A path, ``"hires"``, ``"lowres"``, ``None`` for the image that lies in the folder, ``False`` for none.
    in_folder
        Looks for that image.
    reduced
        The reduced pictures of the folder, by name.
    missing
        Beginning of the warning if there is no image and none was given.
    """
    if image is False:
        return None, None
    if isinstance(image, str) and image in ("hires", "lowres"):
        if image not in reduced:
            msg = f"image={image!r}: there is no tissue_{image}_image.png; there are {sorted(reduced) or 'none'}"
            raise FileNotFoundError(msg)
        return reduced[image], image
    if image is not None:
        return as_path(image, name="image"), None
    path = in_folder()
    if path is None:
        hint = f", or image={sorted(reduced)[0]!r} for the reduced picture" if reduced else ""
        warn(
            f"{missing}: the object holds no H&E, only expression. Pass image= (the microscope's full-resolution "
            f"image){hint}, or image=False to read without one"
        )
    else:
        logger.info("H&E: %s", path)
    return path, None


def as_path(value: Any, *, name: str) -> Path:
    """A path; an error for anything else."""
    if not isinstance(value, str | Path):
        msg = f"{name} is the path of a file, not {value!r}"
        raise TypeError(msg)
    return Path(value)
