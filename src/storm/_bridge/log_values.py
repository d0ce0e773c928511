"""Expression on the log scale, whether a table holds counts or values that were normalised before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from storm._bridge.counts import as_csr, first_fraction, genes_of, read_counts, stored_matrix
from storm._logging import warn
from storm.data.normalise import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

#: log1p of more counts than a spot ever holds: larger values are on a linear scale.
_LARGEST_LOG = 20.0


def read_log_values(
    table: AnnData, layer: str | None = None, *, normalise: bool | Literal["auto"] = "auto"
) -> tuple[sparse.csr_matrix, np.ndarray, bool]:
    """Read expression on the log scale; the table is not changed.

    Parameters
    ----------
    table
        The table.
    layer
        Layer to read; ``None`` for ``X``, ``"raw"`` for ``table.raw``.
    normalise
        ``True``: the values are counts, and log1p of counts per 10,000 is returned; ``False``: they are taken as they
        are; ``"auto"``: whole numbers are counts, others are on the log scale already, which scanpy notes in
        ``uns["log1p"]``.

    Returns
    -------
    values
        float32, shape (n_obs, g).
    genes
        Their names, shape (g,), str.
    normalised
        Whether the values were counts.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If names repeat, values are negative or not finite, or not on a log scale.

    Warns
    -----
    UserWarning
        If ``"auto"`` takes fractions for values on the log scale, and nothing in the table says that they are.
    """
    if normalise != "auto" and not isinstance(normalise, bool):
        msg = f"normalise={normalise!r} is not an option; choose one of [True, False, 'auto']"
        raise ValueError(msg)
    stored, var, where = stored_matrix(table, layer)
    if normalise is not True:
        values = as_csr(stored, where=where)
        if normalise is False or first_fraction(values.data) is not None:
            gene = genes_of(var)
            if not gene.all():  # left out here as read_counts leaves them out
                values, var = values[:, np.flatnonzero(gene)], var[gene]
            _check_log_scale(values.data, where=where)
            names = var.index.to_numpy(dtype=str)
            if len(set(names)) < len(names):
                msg = "var_names occur more than once; call table.var_names_make_unique()"
                raise ValueError(msg)
            if normalise == "auto" and "log1p" not in table.uns:
                msg = (
                    f"{where} holds fractions, and no uns['log1p'] says that they are logarithms: they are taken to be "
                    f"on the log scale; say normalise=False if they are, else name the layer with the counts, layer="
                )
                warn(msg)
            return values.astype(np.float32), names, False
    counts, names = read_counts(table, layer)
    return log_normalise(counts), names, True


def _check_log_scale(values: np.ndarray, *, where: str) -> None:
    advice = "give the layer with raw counts or with log-normalised values, layer="
    if not np.isfinite(values).all():
        msg = f"{where} holds NaN or infinite values ({int((~np.isfinite(values)).sum())} of them); {advice}"
        raise ValueError(msg)
    if values.size and values.min() < 0:
        msg = (
            f"{where} holds negative values, down to {values.min():.4g}: scaled values, of which no fold change can be "
            f"computed; {advice}"
        )
        raise ValueError(msg)
    if values.size and values.max() > _LARGEST_LOG:
        msg = (
            f"{where} holds values up to {values.max():.4g} that are neither counts nor on a log scale; {advice}, or "
            f"take log1p of them"
        )
        raise ValueError(msg)
