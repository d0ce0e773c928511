"""One gene as measured and as predicted, read from the keys that :func:`storm.tl.predict_expression` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storm import _keys
from storm._checks import check_key
from storm.data.normalise import TARGET_SUM

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Counts are shown on the scale of the prediction.
_LOG1P = "log1p of counts per 10,000"


@dataclass(frozen=True)
class Gene:
    """One gene of one section.

    Attributes
    ----------
    name
        Its name in the table.
    measured, predicted
        Values in the order of the table, shape (n,), float64, or ``None``. NaN where there is none.
    unit, predicted_unit
        What the values are.
    reliability
        Held-out Pearson correlation of the prediction; NaN if unknown.
    """

    name: str
    measured: np.ndarray | None
    predicted: np.ndarray | None
    unit: str
    predicted_unit: str
    reliability: float


def read_gene(
    data: SpatialData | AnnData,
    table: AnnData,
    name: str,
    *,
    table_key: str | None,
    key: str,
    layer: str | None,
    log1p: bool | None,
) -> Gene:
    """Read one gene.

    Raises
    ------
    KeyError
        If it is neither measured nor predicted, or ``layer`` does not exist.
    """
    if layer is not None:
        check_key(layer, list(table.layers), name="layer", where="layers")
    measured, unit = None, layer or "X"
    if name in table.var_names:
        measured, unit = _measured(table, name, layer=layer, log1p=log1p)
    predicted, reliability, predicted_unit = _predicted(data, table, name, table_key=table_key, key=key)
    if measured is None and predicted is None:
        msg = (
            f"gene {name!r} is neither among the {table.n_vars} genes of the table nor predicted under {key!r}; "
            f"predict it with storm.tl.predict_expression(data, [{name!r}])"
        )
        raise KeyError(msg)
    return Gene(name, measured, predicted, unit, predicted_unit, reliability)


def _measured(table: AnnData, name: str, *, layer: str | None, log1p: bool | None) -> tuple[np.ndarray, str]:
    matrix = table.X if layer is None else table.layers[layer]
    values = _column(matrix, table.var_names.get_loc(name))
    if log1p is False or (log1p is None and not np.array_equal(values, np.round(values))):
        return values, layer or "X"
    total = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log1p(np.where(total > 0, values / total, np.nan) * TARGET_SUM), _LOG1P


def _predicted(
    data: SpatialData | AnnData, table: AnnData, name: str, *, table_key: str | None, key: str
) -> tuple[np.ndarray | None, float, str]:
    """Values, held-out r and unit; from the table's layer, else from the table beside it."""
    beside = getattr(data, "tables", {}).get(f"{table_key}_{key}")
    if key in table.layers and name in table.var_names:
        values = _column(table.layers[key], table.var_names.get_loc(name))
        if np.isfinite(values).any():
            return values, _reliability(table, name), _unit(table, key)
    if beside is not None and name in beside.var_names:
        if list(beside.obs_names) != list(table.obs_names):
            msg = (
                f"table {table_key + '_' + key!r} does not hold the same spots as {table_key!r} ({beside.n_obs} and "
                f"{table.n_obs}); predict again with storm.tl.predict_expression"
            )
            raise ValueError(msg)
        return _column(beside.X, beside.var_names.get_loc(name)), _reliability(beside, name), _unit(beside, key)
    return None, float("nan"), ""


def _column(matrix: Any, column: int) -> np.ndarray:
    values = matrix[:, [column]]
    values = values.toarray() if hasattr(values, "toarray") else values
    return np.asarray(values, dtype=np.float64).ravel()


def _reliability(table: AnnData, name: str) -> float:
    return float(table.var[_keys.RELIABILITY][name]) if _keys.RELIABILITY in table.var else float("nan")


def _unit(table: AnnData, key: str) -> str:
    return str(table.uns.get(_keys.UNS, {}).get(key, {}).get("units", _LOG1P))
