"""What a head predicts, block of rows by block of rows: in memory, in a scratch file where it is large, or in a store.

The features of all spots are held, the genes of a block only, so that neither the number of spots times genes nor the
limits of their intervals decide about the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.counts import named_layers
from storm._bridge.study import Study
from storm._bridge.workspace import Workspace
from storm._bridge.write import annotate_like
from storm._inference.head_trust import limits
from storm._keys import LIMIT_ENDINGS, UNS, predicted_table, unusual
from storm._loading import ExpressionHead
from storm.data.genes import GeneMatch
from storm.data.rows import large_empty
from storm.pretraining.head import apply_head

if TYPE_CHECKING:
    from anndata import AnnData

#: Values of a block, 64 MiB.
_BLOCK = 2**24

Blocks = Iterator[tuple[slice, list[np.ndarray]]]


def matrix_names(key_added: str, *, intervals: bool) -> list[str]:
    """Names of the prediction and of the limits of its intervals, if they are asked for."""
    return [key_added, *(f"{key_added}{ending}" for ending in LIMIT_ENDINGS if intervals)]


def predicted_blocks(
    head: ExpressionHead,
    columns: np.ndarray,
    features: np.ndarray,
    *,
    offsets: tuple[np.ndarray, np.ndarray] | None = None,
) -> Blocks:
    """Predict some genes of a head in blocks of rows.

    Parameters
    ----------
    head
        The head.
    columns
        Positions of the genes among its own, shape (g,).
    features
        Shape (n, f).
    offsets
        Limits of the intervals relative to the prediction, each of shape (g,), if they are asked for.

    Yields
    ------
    rows : slice
        Rows of the block.
    values : list of ndarray
        The prediction and, if asked for, the lower and the upper limits, float32, shape (rows, g).
    """
    step = max(1, _BLOCK // max(features.shape[1], len(head.genes)))
    chosen = not np.array_equal(columns, np.arange(len(head.genes)))  # choosing copies
    for start in range(0, len(features), step):
        rows = slice(start, min(start + step, len(features)))
        predicted = apply_head(head.module, features[rows])
        if chosen:
            predicted = predicted[:, columns]
        yield rows, [predicted] if offsets is None else [predicted, *limits(predicted, *offsets)]


def layer_results(
    study: Study,
    work: Workspace,
    blocks: Blocks,
    match: GeneMatch,
    trust: Mapping[str, np.ndarray],
    *,
    key_added: str,
    intervals: bool,
) -> dict[str, Any]:
    """What is written where the predicted genes are the table's own; see :func:`~storm._bridge.write.write_results`.

    Parameters
    ----------
    study, work
        The study, which keeps how usual tiles are, and the object.
    blocks
        See :func:`predicted_blocks`.
    match
        The table's genes among the predicted ones.
    trust
        Columns of ``var`` for the predicted genes.
    key_added, intervals
        See :func:`storm.tl.predict_expression`.
    """
    own = np.flatnonzero(match.index >= 0)
    layers = {name: large_empty(work.table.shape) for name in matrix_names(key_added, intervals=intervals)}
    for rows, values in blocks:
        for layer, block in zip(layers.values(), values, strict=True):
            layer[rows] = np.nan
            layer[rows, own] = block[:, match.index[own]]
    columns = {name: np.full(work.table.n_vars, np.nan, dtype=np.float32) for name in trust}
    for name, values_of_genes in trust.items():
        columns[name][own] = values_of_genes[match.index[own]]
    return {
        "rows": study.rows(work),
        "layers": layers,
        "obs": {unusual(key_added): study.kept(work, "ood", key_added)[:, 0]},
        "var": columns,
        "uns": {key_added: study.facts(work, key_added)},
    }


def empty_table(
    study: Study, work: Workspace, genes: Sequence[str], trust: Mapping[str, np.ndarray], *, key_added: str
) -> AnnData:
    """The new table of predicted genes without its matrices and provenance."""
    new = annotate_like(work.table, None, var=pd.DataFrame(dict(trust), index=pd.Index(list(genes))))
    new.obs[unusual(key_added)] = study.kept(work, "ood", key_added)[:, 0]
    return new


def new_table(
    study: Study,
    work: Workspace,
    blocks: Blocks,
    genes: Sequence[str],
    trust: Mapping[str, np.ndarray],
    *,
    key_added: str,
    intervals: bool,
) -> AnnData:
    """The new table of predicted genes; rows of sections that were not computed keep what an earlier one holds.

    Parameters
    ----------
    study, work, blocks, trust, key_added, intervals
        See :func:`layer_results`.
    genes
        Names of the predicted genes.

    Raises
    ------
    ValueError
        If these rows hold predictions of other genes, which would be lost.
    """
    done = study.rows(work)
    new = empty_table(study, work, genes, trust, key_added=key_added)
    matrices = {name: large_empty(new.shape) for name in matrix_names(key_added, intervals=intervals)}
    for rows, values in blocks:
        for matrix, block in zip(matrices.values(), values, strict=True):
            matrix[rows] = block
    old = work.owner.tables.get(predicted_table(str(work.selection.table_key), key_added))
    if old is not None and done is not None:
        others = ~done
        if old.obs_names.equals(new.obs_names) and old.var_names.equals(new.var_names):
            for name in {*matrices, *named_layers(old)}:
                before = old.X if name == key_added else old.layers.get(name)
                if name not in matrices:
                    matrices[name] = large_empty(new.shape)
                    matrices[name][:] = np.nan
                if before is not None:
                    matrices[name][others] = np.asarray(before[others])
            column = unusual(key_added)
            if column in old.obs:
                new.obs[column] = np.where(done, new.obs[column], old.obs[column])
        elif old.n_obs == len(done) and np.isfinite(old.X[others]).any():
            msg = (
                f"the table of key_added={key_added!r} holds predictions of {old.n_vars} genes in the rows of other "
                f"sections, and these are {new.n_vars} genes, not the same; predict the same genes, or choose another "
                f"key_added"
            )
            raise ValueError(msg)
        else:
            old = None
    # A map of a scratch file is an array like any other, and lives as long as that.
    new.X = np.asarray(matrices.pop(key_added))
    new.layers.update({name: np.asarray(values) for name, values in matrices.items()})
    new.uns[UNS] = {key_added: study.facts(work, key_added, table=new if old is None else old)}
    return new
