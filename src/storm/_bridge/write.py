"""Writing results into a table: everything is checked before the first assignment, and undone if one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from storm._bridge.select import annotated_regions, is_spatialdata, records_of
from storm._checks import check_new_key
from storm._keys import (
    CHECK,
    DEFAULTS,
    LIMIT_ENDINGS,
    MADE_BY,
    MODALITY_ENDINGS,
    OBS_ENDINGS,
    REMEMBERED,
    UM_PER_UNIT,
    UNS,
    VAR_ENDINGS,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData


def check_writable(table: AnnData, table_key: str | None = None) -> None:
    """Raise if results cannot be written into a table; for callers that want to know before they compute.

    A view is refused: what is written to it lands in a copy, not in the object that it is a view of. Backed tables are
    fine: results live in memory until the user writes the object.

    Parameters
    ----------
    table
        The table.
    table_key
        Its key in a SpatialData, for the message.

    Raises
    ------
    ValueError
        If the table is a view.
    """
    if table.is_view:
        copy = (
            "adata = adata.copy()"
            if table_key is None
            else f"sdata.tables[{table_key!r}] = sdata.tables[{table_key!r}].copy()"
        )
        msg = f"the table is a view of another AnnData, so results would go into a copy of it; first {copy}"
        raise ValueError(msg)


#: What is written beside the result of a key, under a name of its own.
_ENDINGS = (*MODALITY_ENDINGS, *OBS_ENDINGS, *LIMIT_ENDINGS)


def check_keys_added(
    table: AnnData,
    *,
    obs: Iterable[str] = (),
    obsm: Iterable[str] = (),
    layers: Iterable[str] = (),
    name: str = "key_added",
) -> None:
    """Raise unless results can be written under new keys; for callers that want to know before they compute.

    A key must be one that AnnData and SpatialData store, must not have a meaning of its own in its place, and must not
    hold something that STORM did not write.

    Parameters
    ----------
    table
        The table that gets the results.
    obs, obsm, layers
        Keys of the results, by their place; beside a layer, columns of ``var`` tell how reliable its genes are.
    name
        The argument with which the user chose the keys, for the error.

    Raises
    ------
    TypeError
        If a key is not text.
    ValueError
        If a key cannot be stored, is reserved, or is taken by something that STORM did not write, or by a result that
        is no column, such as that of :func:`storm.tl.enrich`.
    """
    annotated = annotated_regions(table)
    links = [] if annotated is None else list(annotated[1:])
    # The names of the result's place are reserved in the other places too: provenance has one list of names.
    own_names = [CHECK, REMEMBERED]
    reserved = {
        "obs": [*links, UM_PER_UNIT, *own_names],
        "obsm": ["spatial", *own_names],
        "layers": ["X", "raw", *own_names],
    }
    records = records_of(table)
    for slot, keys in (("obs", obs), ("obsm", obsm), ("layers", layers)):
        for key in keys:
            check_new_key(key, name=name, reserved=reserved[slot])
            _check_maker(records, key, None, name=name)
            base = next((key.removesuffix(end) for end in _ENDINGS if key.endswith(end)), key)
            own = any(one in DEFAULTS or (one in records and _maker(records[one]) is None) for one in (key, base))
            entries = [(slot, key)]
            if slot == "layers" and base == key:
                entries += [("var", f"{key}{ending}") for ending in VAR_ENDINGS]
            for place, entry in entries:
                if entry in getattr(table, place) and not own:
                    msg = (
                        f"{name}={key!r}: {place}[{entry!r}] exists already and was not written by STORM; choose "
                        f"another {name}, or remove that entry first"
                    )
                    raise ValueError(msg)


def check_record_added(table: AnnData, key: str, *, made_by: str) -> None:
    """Raise unless a result that is no column can be recorded in ``uns["storm"]``, where its function may replace it.

    Parameters
    ----------
    table
        The table that gets the result.
    key
        Key of the record, which has an entry :data:`~storm._keys.MADE_BY`.
    made_by
        The function that writes it.

    Raises
    ------
    TypeError
        If the key is not text.
    ValueError
        If the key cannot be stored, is reserved, or holds the record of something else.
    """
    check_new_key(key, reserved=[CHECK, REMEMBERED])
    _check_maker(records_of(table), key, made_by)


def _maker(record: Any) -> str | None:
    """The function that recorded a result which is no column; ``None`` for what belongs to a column."""
    return record.get(MADE_BY) if isinstance(record, Mapping) else None


def _check_maker(records: Mapping[str, Any], key: str, made_by: str | None, *, name: str = "key_added") -> None:
    if key in records and (maker := _maker(records[key])) != made_by:
        of = "another result" if maker is None else f"the result of {maker}"
        msg = (
            f"{name}={key!r}: uns[{UNS!r}][{key!r}] belongs to {of}; choose another {name}, or remove that entry first"
        )
        raise ValueError(msg)


def write_results(
    table: AnnData,
    *,
    rows: np.ndarray | None = None,
    obs: Mapping[str, Any] | None = None,
    obsm: Mapping[str, Any] | None = None,
    layers: Mapping[str, Any] | None = None,
    var: Mapping[str, Any] | None = None,
    uns: Mapping[str, Mapping[str, Any]] | None = None,
    colours: Mapping[str, Sequence[str]] | None = None,
) -> Callable[[], None]:
    """Write arrays into a table, all of them or none.

    Parameters
    ----------
    table
        The table.
    rows
        Rows that were computed, bool, shape (n_obs,), where they are not all rows: the others keep what they hold under
        the same keys.
    obs
        Columns by name, each of length n_obs, in the order of the table.
    obsm
        Arrays by name, shape (n_obs, d); stored as float32.
    layers
        Matrices by name, shape (n_obs, n_vars); dense ones are stored as float32.
    var
        Columns by name, each of length n_vars.
    uns
        Provenance by key: ``uns={"X_storm": {...}}`` is stored as ``table.uns["storm"]["X_storm"]``, beside what is
        already stored.
    colours
        Colours of the categories of a column of ``obs``, in their order; stored as ``uns["<column>_colors"]``, where
        scanpy keeps them.

    Returns
    -------
    callable
        Brings back what was there, for callers that write into several tables.

    Raises
    ------
    ValueError
        If the table is a view, or something does not fit it; then nothing has been written.
    TypeError
        If the provenance holds something that AnnData cannot store.
    """
    check_writable(table)
    n_obs, n_vars = table.shape
    obs = {k: _column(v, table.obs_names, name=f"obs[{k!r}]") for k, v in (obs or {}).items()}
    var = {k: _column(v, table.var_names, name=f"var[{k!r}]") for k, v in (var or {}).items()}
    obsm = {k: _matrix(v, (n_obs, None), name=f"obsm[{k!r}]") for k, v in (obsm or {}).items()}
    layers = {k: _matrix(v, (n_obs, n_vars), name=f"layers[{k!r}]") for k, v in (layers or {}).items()}
    provenance = {k: storable(v, name=f"uns[{UNS!r}][{k!r}]") for k, v in (uns or {}).items()}
    if rows is not None and not rows.all():
        obs = {k: _merged_column(table.obs, k, v, rows) for k, v in obs.items()}
        obsm = {k: _merged_matrix(table.obsm, k, v, rows, slot="obsm") for k, v in obsm.items()}
        layers = {k: _merged_matrix(table.layers, k, v, rows, slot="layers") for k, v in layers.items()}

    undo: list[Callable[[], None]] = []

    def take_back() -> None:
        for step in reversed(undo):
            step()

    try:
        for target, new in ((table.obs, obs), (table.var, var), (table.obsm, obsm), (table.layers, layers)):
            for key, value in new.items():
                _assign(target, key, value, undo)
        if provenance:
            # a new dictionary, so that the old one is still whole when it has to come back
            _assign(table.uns, UNS, {**records_of(table), **provenance}, undo)
        for key, values in (colours or {}).items():
            _assign(table.uns, f"{key}_colors", np.array(values, dtype=str), undo)
    except BaseException:
        take_back()
        raise
    return take_back


def _merged_matrix(target: Any, key: str, new: Any, rows: np.ndarray, *, slot: str) -> Any:
    """The new values in the rows that were computed, and in the others what is stored there."""
    if key not in target:
        return new
    old = target[key]
    old = old.toarray() if sparse.issparse(old) else np.asarray(old)
    if old.shape != new.shape:
        if not np.isfinite(old[~rows]).any():
            return new
        msg = (
            f"{slot}[{key!r}] holds results of other rows with {old.shape[1]} columns, and these have {new.shape[1]}; "
            f"give another key_added, or compute all regions in the same way"
        )
        raise ValueError(msg)
    merged = old.astype(np.float32)
    merged[rows] = new[rows]
    return merged


def _merged_column(target: pd.DataFrame, key: str, new: pd.Series, rows: np.ndarray) -> pd.Series:
    if key not in target:
        return new
    old, fresh = target[key].astype(object), new.astype(object)
    merged = old.where(~rows, fresh)
    return merged.astype("category") if isinstance(new.dtype, pd.CategoricalDtype) else merged.astype(new.dtype)


def _assign(target: Any, key: str, value: Any, undo: list[Callable[[], None]]) -> None:
    """Set one entry after noting how to bring back what was there."""
    if key in target:
        old = target[key]
        undo.append(lambda: target.__setitem__(key, old))
    else:
        undo.append(lambda: _discard(target, key))
    target[key] = value


def _discard(target: MutableMapping | pd.DataFrame, key: str) -> None:
    if key in target:
        del target[key]


def _column(values: Any, names: pd.Index, *, name: str) -> Any:
    """Check a column against the names of its axis and give it their index."""
    if isinstance(values, pd.Series):
        if not values.index.equals(names):
            msg = f"{name} is a Series whose index is not the table's; give it in the table's order"
            raise ValueError(msg)
        values = values.array
    if np.ndim(values) != 1 or len(values) != len(names):
        msg = f"{name} has shape {np.shape(values)}, expected ({len(names)},)"
        raise ValueError(msg)
    return pd.Series(values, index=names)


def _matrix(values: Any, shape: tuple[int, int | None], *, name: str) -> Any:
    """Check the shape of a matrix and make it float32 (sparse ones stay as they are)."""
    if not sparse.issparse(values):
        values = np.ascontiguousarray(values, dtype=np.float32)
    if values.ndim != 2 or any(want not in (None, got) for got, want in zip(values.shape, shape, strict=True)):
        wanted = tuple("d" if s is None else s for s in shape)
        msg = f"{name} has shape {values.shape}, expected {wanted}"
        raise ValueError(msg)
    return values


def storable(value: Any, *, name: str) -> Any:
    """Turn provenance into what AnnData can write to zarr and h5ad.

    Raises
    ------
    TypeError
        If there is something that cannot be written, naming where.
    """
    if isinstance(value, Mapping):
        bad = [k for k in value if not isinstance(k, str) or "/" in k or not k]
        if bad:
            msg = f"{name} has the keys {bad}; keys are strings without '/'"
            raise TypeError(msg)
        return {k: storable(v, name=f"{name}[{k!r}]") for k, v in value.items()}
    if isinstance(value, pd.DataFrame):
        return _storable_frame(value, name=name)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else list(value)
        value = np.asarray(items, dtype=object if not items else None)
        value = value.astype(str) if not items else value
    if value is None or isinstance(value, (str, bool, int, float, np.generic)):
        return value
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biufUSO"
    if is_array and (value.dtype.kind != "O" or all(isinstance(v, str) for v in value.ravel())):
        return value
    msg = f"{name} is {type(value).__name__} ({value!r:.60}), which AnnData cannot store; use text, numbers or arrays"
    raise TypeError(msg)


def _storable_frame(frame: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """A data frame with its rows numbered as text, as AnnData reads them back."""
    bad = [column for column in frame.columns if not isinstance(column, str) or "/" in column or not column]
    if bad:
        msg = f"{name} has the columns {bad}; columns are strings without '/'"
        raise TypeError(msg)
    return frame.set_axis(frame.index.astype(str), axis=0)


def annotate_like(table: AnnData, X: Any, *, var: pd.DataFrame) -> AnnData:
    """Make a new table with the observations of another one, annotating the same elements.

    Parameters
    ----------
    table
        The table whose ``obs_names``, regions and instances are taken over.
    X
        Matrix of the new table, shape (n_obs, n_vars).
    var
        Its variables, with their names as index.
    """
    from anndata import AnnData

    annotated = annotated_regions(table)
    columns = [] if annotated is None else list(annotated[1:])
    new = AnnData(X=X, obs=table.obs[columns].copy(), var=var)
    if annotated is not None:
        new.uns["spatialdata_attrs"] = {
            key: list(value) if isinstance(value, (list, np.ndarray)) else value
            for key, value in table.uns["spatialdata_attrs"].items()
        }
    if "spatial" in table.obsm:
        new.obsm["spatial"] = np.array(table.obsm["spatial"])
    return new


def add_elements(
    sdata: SpatialData,
    *,
    shapes: Mapping[str, GeoDataFrame] | None = None,
    tables: Mapping[str, AnnData] | None = None,
) -> None:
    """Add shapes and tables to a SpatialData, all of them or none; those of the same name are replaced.

    Raises
    ------
    TypeError
        If ``sdata`` is no SpatialData.
    ValueError
        If a name belongs to an element of another kind (spatialdata's own error).
    """
    if not is_spatialdata(sdata):
        msg = f"only a SpatialData can take elements, not {type(sdata).__name__}"
        raise TypeError(msg)
    undo: list[Callable[[], None]] = []
    try:
        for group, new in ((sdata.shapes, shapes or {}), (sdata.tables, tables or {})):
            for key, element in new.items():
                old = group.pop(key, None)
                undo.append(partial(_put_back, group, key, old))
                group[key] = element
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _put_back(group: MutableMapping, key: str, old: Any) -> None:
    group.pop(key, None)
    if old is not None:
        group[key] = old
