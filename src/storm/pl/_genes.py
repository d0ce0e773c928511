"""A gene as measured and as predicted, read from the keys that :func:`storm.tl.predict_expression` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from storm import _keys
from storm._bridge import select_table
from storm._bridge.counts import named_elsewhere, named_layers
from storm._checks import check_key
from storm._logging import warn
from storm.data.normalise import TARGET_SUM

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Label of counts on the scale of the prediction.
_LOG1P = "log1p of counts per 10,000"


@dataclass(frozen=True)
class Prediction:
    """One prediction of a gene of one section.

    Attributes
    ----------
    values
        In the order of the table, float64, shape (n,), NaN where a spot has none; ``None`` without any values.
    unit
        Label of the values, for a colour bar.
    r, lowest
        Held-out Pearson correlation, its mean over sections and the lowest in one; NaN if unknown.
    measured_on
        What it was measured on; empty if unknown.
    interval
        Limits of the prediction interval relative to the prediction; NaN if unknown.
    level, depth
        Level of the interval, and counts of the spots that it is of; NaN if unknown.
    unusual
        Share of tiles that are unlike those of the training; NaN if unknown.
    """

    values: np.ndarray | None = None
    unit: str = ""
    r: float = np.nan
    lowest: float = np.nan
    measured_on: str = ""
    interval: tuple[float, float] = (np.nan, np.nan)
    level: float = np.nan
    depth: float = np.nan
    unusual: float = np.nan


@dataclass(frozen=True)
class Gene:
    """One gene of one section.

    Attributes
    ----------
    name
        Name in the table.
    measured
        Values in the order of the table, float64, shape (n,), NaN where a spot has none; ``None`` without any values.
    unit
        Label of the values, for a colour bar.
    predictions
        By key.
    """

    name: str
    measured: np.ndarray | None
    unit: str
    predictions: Mapping[str, Prediction]


def read_gene(
    data: SpatialData | AnnData,
    table: AnnData,
    name: str,
    *,
    table_key: str | None,
    keys: Sequence[str],
    layer: str | None,
    log1p: bool | None,
) -> Gene:
    """Read one gene, and its predictions under some keys.

    Raises
    ------
    KeyError
        If it is neither measured nor predicted, or ``layer`` does not exist.
    ValueError
        If several columns have its name, or its prediction belongs to other spots.
    TypeError
        If its values are not numbers.
    """
    if layer is not None:
        check_key(layer, named_layers(table), name="layer", where="layers")
    measured, unit = None, layer or "X"
    if name in table.var_names:
        measured, unit = _measured(table, name, layer=layer, log1p=log1p)
    predictions = {key: _prediction(data, table, name, table_key=table_key, key=key) for key in keys}
    if measured is None and all(own.values is None for own in predictions.values()):
        under = keys[0] if len(keys) == 1 else list(keys)
        msg = (
            f"gene {name!r} is neither among the {table.n_vars} genes of the table nor predicted under {under!r}; "
            f"predict it with storm.tl.predict_expression(data, [{name!r}]){named_elsewhere(table, [name])}"
        )
        raise KeyError(msg)
    if measured is None and (told := named_elsewhere(table, [name])):
        warn(f"gene {name!r} is drawn without what was measured, since var_names hold other names{told}")
    return Gene(name, measured, unit, predictions)


def _prediction(
    data: SpatialData | AnnData, table: AnnData, name: str, *, table_key: str | None, key: str
) -> Prediction:
    values, holder = _predicted(data, table, name, table_key=table_key, key=key)
    if holder is None:
        return Prediction()
    record = _record(holder, key)
    head = _mapping(record.get("head"))
    lower, upper = (_of_gene(holder, name, column=f"{key}{ending}") for ending in ("_lo", "_hi"))
    return Prediction(
        values,
        unit=str(record.get("units", _LOG1P)),
        r=_reliability(holder, name, key=key),
        lowest=_of_gene(holder, name, column=f"{key}_r_min"),
        measured_on=measured_on(holder, key),
        interval=(lower, upper),
        level=_number(head.get("interval_level")),
        depth=_number(record.get("depth")),
        unusual=_number(record.get("unusual_tiles")),
    )


def _measured(table: AnnData, name: str, *, layer: str | None, log1p: bool | None) -> tuple[np.ndarray | None, str]:
    """Values of a measured gene, shape (n,), and their unit; ``None`` if the table has no matrix."""
    matrix = table.X if layer is None else table.layers[layer]
    if matrix is None:
        return None, "X"
    values = _column(matrix, _place(table, name), name=name)
    if log1p is False or (log1p is None and not np.array_equal(values, np.round(values))):
        return values, layer or "X"
    total = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log1p(np.where(total > 0, values / total, np.nan) * TARGET_SUM), _LOG1P


def _predicted(
    data: SpatialData | AnnData, table: AnnData, name: str, *, table_key: str | None, key: str
) -> tuple[np.ndarray | None, AnnData | None]:
    """Return values and the table that they are of: the table's layer, otherwise the table beside it."""
    if key in table.layers and name in table.var_names:
        values = _column(table.layers[key], _place(table, name), name=name)
        if np.isfinite(values).any():
            return values, table
    beside_key = None if table_key is None else _keys.predicted_table(table_key, key)
    beside = getattr(data, "tables", {}).get(beside_key)
    if beside is not None and name in beside.var_names:
        if list(beside.obs_names) != list(table.obs_names):
            msg = (
                f"table {beside_key!r} does not hold the same spots as {table_key!r} ({beside.n_obs} and "
                f"{table.n_obs}); predict again with storm.tl.predict_expression"
            )
            raise ValueError(msg)
        return _column(beside.X, _place(beside, name), name=name), beside
    return None, None


def prediction_table(data: SpatialData | AnnData, *, table_key: str | None, key: str) -> AnnData:
    """Return the table that says how far to believe a prediction: the one that holds its layer, or the one beside it.

    Raises
    ------
    KeyError
        If nothing was predicted under this key.
    """
    name, table = select_table(data, table_key)
    beside = None if name is None else getattr(data, "tables", {}).get(_keys.predicted_table(name, key))
    for one in (beside, table):
        if one is not None and _keys.reliability(key) in one.var:
            return one
    msg = f"there is no prediction under {key!r}; run storm.tl.predict_expression, or name its key_added as key="
    raise KeyError(msg)


def measured_on(table: AnnData, key: str) -> str:
    """What the reliability of a prediction was measured on; empty if unknown."""
    return str(_mapping(_record(table, key).get("head")).get("measured_on", ""))


def _place(table: AnnData, name: str) -> int:
    """Return the number of a gene's column."""
    place = table.var_names.get_loc(name)
    if not isinstance(place, int | np.integer):
        count = int((table.var_names == name).sum())
        msg = f"{count} genes of the table are called {name!r}; first table.var_names_make_unique()"
        raise ValueError(msg)
    return int(place)


def _column(matrix: Any, column: int, *, name: str) -> np.ndarray:
    """Return a column of a dense or sparse matrix (n, g) as float64, shape (n,)."""
    values = matrix[:, [column]]
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if values.dtype.kind not in "biuf":
        msg = f"the values of gene {name!r} are of type {values.dtype}; expression is given as real numbers"
        raise TypeError(msg)
    return values.astype(np.float64).ravel()


def _reliability(table: AnnData, name: str, *, key: str) -> float:
    """Return a gene's held-out r, NaN if it is unknown."""
    column = _keys.reliability(key)
    records = table.uns.get(_keys.UNS)
    if column not in table.var and isinstance(records, Mapping) and list(records) == [key]:
        # Version 0.1.0 had one column for all keys; where there is one key, it is this key's.
        column = _keys.reliability()
    return _of_gene(table, name, column=column)


def _of_gene(table: AnnData, name: str, *, column: str) -> float:
    """Return a number of ``var``, NaN if it is unknown."""
    return _number(table.var[column].iloc[_place(table, name)]) if column in table.var else np.nan


def _number(value: Any) -> float:
    return float(value) if isinstance(value, Real) else np.nan


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _record(table: AnnData, key: str) -> Mapping[str, Any]:
    """Return the provenance of a prediction; empty without one."""
    return _mapping(_mapping(table.uns.get(_keys.UNS)).get(key))
