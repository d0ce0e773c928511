"""What a report says of a section: numbers and tables, read from the object or computed from a copy; no HTML."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm import _keys
from storm._bridge.counts import read_counts
from storm._bridge.placed import read_labels
from storm._bridge.select import is_spatialdata, records_of
from storm._palette import palette, stored_colours
from storm.get import rank_domain_genes
from storm.tl import rank_domain_genes as compute_ranking

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Genes are ranked for a report where the table has at most this many stored values: some seconds.
_CHEAP = 20_000_000
#: Pixels of the largest image that is drawn whole.
_LARGEST_PX = 16_000_000
#: Text of a list in the provenance is cut after this many entries.
_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Domains:
    """The domains of a table.

    Attributes
    ----------
    names, colours
        Name and hex code of each domain.
    sizes
        Rows of each domain in each section, shape (domains, sections).
    sections
        Names of the sections; one empty name for a single one.
    without
        Rows without a domain.
    """

    names: list[str]
    colours: list[str]
    sizes: np.ndarray
    sections: list[str]
    without: int


def domains_of(table: AnnData, key: str, sections: Mapping[str, np.ndarray | None]) -> Domains | None:
    """Read the domains; ``None`` where there are none.

    Parameters
    ----------
    table
        The table.
    key
        Column of ``obs``.
    sections
        Rows of each section; ``None`` for all.
    """
    from matplotlib.colors import to_hex

    if key not in table.obs:
        return None
    labels = read_labels(table, key, least=0)
    if not labels.names:
        return None
    column = table.obs[key]
    every = [str(name) for name in (column.cat.categories if hasattr(column, "cat") else labels.names)]
    colours = stored_colours(table.uns.get(f"{key}_colors"), len(every)) or palette(len(every))
    by_name = dict(zip(every, map(to_hex, colours), strict=True))
    sizes = [
        np.bincount(codes[codes >= 0], minlength=len(labels.names))
        for codes in (labels.codes if rows is None else labels.codes[rows] for rows in sections.values())
    ]
    return Domains(
        labels.names,
        [by_name[name] for name in labels.names],
        np.stack(sizes, axis=1),
        list(sections),
        int((labels.codes < 0).sum()),
    )


@dataclass(frozen=True, eq=False)
class Depth:
    """Counts and genes of the median row, and counts in all."""

    counts: float
    genes: float


def depth_of(table: AnnData, layer: str | None) -> Depth | None:
    """How deep a table is; ``None`` where it holds no counts."""
    if table.n_vars == 0 or table.n_obs == 0:
        return None
    try:
        counts, _ = read_counts(table, layer)
    except (ValueError, KeyError, TypeError):
        return None
    total = np.asarray(counts.sum(axis=1)).ravel()
    return Depth(float(np.median(total)), float(np.median(np.diff(counts.indptr))))


@dataclass(frozen=True, eq=False)
class Ranking:
    """Genes of domains.

    Attributes
    ----------
    genes
        Rows of :func:`storm.get.rank_domain_genes`.
    note
        What each domain is compared with, and where the ranking comes from.
    computed
        Whether it was computed for this report.
    """

    genes: pd.DataFrame
    note: str
    computed: bool


def ranking_of(
    data: SpatialData | AnnData, table: AnnData, key: str, *, table_key: str | None, layer: str | None
) -> Ranking | str:
    """Genes of each domain as they are stored, else against all other spots where that takes seconds; or why not."""
    stored = table.uns.get(_keys.RANKED_GENES)
    if isinstance(stored, Mapping) and {"names", "auc", "params"} <= set(stored):
        parameters = stored["params"]
        if parameters["groupby"] == key:
            against = {"adjacent": "the domains beside it", "rest": "all other spots"}
            reference = str(parameters["reference"])
            note = (
                f"Each domain against {against.get(reference, f'the domains {reference}')}, as stored in the section."
            )
            return Ranking(rank_domain_genes(data, table_key=table_key), note, computed=False)
    if table.n_vars == 0:
        return "The table has no genes."
    matrix = table.X if layer is None else table.layers.get(layer)
    size = 0 if matrix is None else getattr(matrix, "nnz", table.n_obs * table.n_vars)
    if size > _CHEAP:
        return f"No genes are ranked: {size:,} values would take long for a report."
    return _computed(table, key, layer)


def _computed(table: AnnData, key: str, layer: str | None) -> Ranking | str:
    from anndata import AnnData

    layers = {} if layer is None else {layer: table.layers[layer]}
    bare = AnnData(X=table.X, obs=table.obs[[key]].copy(), var=pd.DataFrame(index=table.var_names), layers=layers)
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            compute_ranking(bare, key, "rest", layer=layer, spatial=False)
    except (ValueError, KeyError, TypeError) as error:
        return f"No genes are ranked: {_text(error)}"
    remarks = [str(one.message) for one in raised if issubclass(one.category, UserWarning)]
    note = (
        "Computed for this report: each domain against all other spots. Neighbouring spots are alike, so no p-values "
        "are given; genes by the probability that a spot of the domain has the higher value (AUC), "
        "which puts those first that tell the domain apart, and not rare ones."
    )
    note = " ".join([note, *(f"{one[:1].upper()}{one[1:]}." for one in remarks)])
    genes = rank_domain_genes(bare).sort_values("auc", ascending=False, kind="stable")
    return Ranking(genes, note, computed=True)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Genes predicted from H&E.

    Attributes
    ----------
    genes
        A row per gene with a prediction, the most believable first: ``r``, ``r_min``, ``n_sections``, ``n_patients``,
        ``reliable``; NaN where unknown.
    measured_on
        What ``r`` was measured on; empty if unknown.
    units
        Unit of the prediction.
    unusual
        Share of tiles that are unlike those of the training; ``None`` if unknown.
    """

    genes: pd.DataFrame
    measured_on: str
    units: str
    unusual: float | None


def prediction_of(data: SpatialData | AnnData, table: AnnData, key: str, *, table_key: str | None) -> Prediction | None:
    """Read what was predicted under a key; ``None`` if nothing was."""
    beside = None
    if is_spatialdata(data) and table_key is not None:
        beside = data.tables.get(_keys.predicted_table(table_key, key))
    column = _keys.reliability(key)
    holder = next((one for one in (beside, table) if one is not None and column in one.var), None)
    if holder is None:
        return None
    columns = {name: f"{key}_{name}" for name in ("r", "r_min", "n_sections", "n_patients", "reliable")}
    genes = pd.DataFrame(
        {name: holder.var[own].astype(float) if own in holder.var else np.nan for name, own in columns.items()},
        index=holder.var_names,
    )
    if holder is table:
        genes = genes[genes["r"].notna()]
    record = records_of(holder).get(key, {})
    head = record.get("head", {}) if isinstance(record, Mapping) else {}
    unusual = record.get("unusual_tiles") if isinstance(record, Mapping) else None
    return Prediction(
        genes.sort_values("r", ascending=False, kind="stable"),
        str(head.get("measured_on", "")) if isinstance(head, Mapping) else "",
        str(record.get("units", "")) if isinstance(record, Mapping) else "",
        None if unusual is None else float(unusual),
    )


def unembedded(table: AnnData, key: str = _keys.X_STORM) -> int | None:
    """Rows that could not be embedded; ``None`` without an embedding."""
    if key not in table.obsm:
        return None
    return int(np.isnan(np.asarray(table.obsm[key])[:, 0]).sum())


def provenance(table: AnnData) -> dict[str, list[tuple[str, str]]]:
    """What ``uns["storm"]`` says of each key, as pairs of text."""
    return {str(key): list(_flat(record)) for key, record in records_of(table).items() if key != _keys.CHECK}


def _flat(record: Any, before: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(record, Mapping):
        yield before or "value", _shown(record)
        return
    for key, value in record.items():
        name = f"{before}.{key}" if before else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, _shown(value)


def _shown(value: Any) -> str:
    """A value of a record as short text."""
    if isinstance(value, pd.DataFrame):
        return f"table of {len(value):,} rows: {', '.join(map(str, value.columns))}"
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return f"array of shape {value.shape}"
    if isinstance(value, list | tuple | set | np.ndarray):
        entries = list(value)
        more = f", … ({len(entries):,} in all)" if len(entries) > _SHOWN else ""
        return ", ".join(map(_shown, entries[:_SHOWN])) + more
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)


def contents(data: SpatialData | AnnData) -> list[tuple[str, str]]:
    """The elements of an object, in words."""
    if not is_spatialdata(data):
        return [("table", f"{data.n_obs:,} rows × {data.n_vars:,} genes (AnnData)")]
    from storm._bridge.image import levels_of

    rows = []
    for name, image in data.images.items():
        full = levels_of(image)[0]
        rows.append((f"image {name}", f"{full.sizes['x']:,} × {full.sizes['y']:,} pixels, {full.sizes['c']} channels"))
    rows += [(f"labels {name}", "segmentation") for name in data.labels]
    rows += [(f"shapes {name}", f"{len(shapes):,} outlines or spots") for name, shapes in data.shapes.items()]
    rows += [(f"points {name}", "points") for name in data.points]
    rows += [(f"table {name}", f"{one.n_obs:,} rows × {one.n_vars:,} genes") for name, one in data.tables.items()]
    return rows


def overview(data: SpatialData | AnnData, image_key: str | None) -> np.ndarray | None:
    """The coarsest level of the only image, or of the chosen one, uint8 (height, width, 3); ``None`` if it is none."""
    from storm._bridge.image import check_image, levels_of

    images = data.images if is_spatialdata(data) else {}
    key = image_key if image_key is not None else next(iter(images)) if len(images) == 1 else None
    if key is None or key not in images:
        return None
    coarse = levels_of(images[key])[-1]
    if coarse.sizes["x"] * coarse.sizes["y"] > _LARGEST_PX:
        return None
    try:
        channels = list(check_image(images[key], str(key)))
    except (ValueError, TypeError):
        return None
    return np.asarray(coarse.transpose("y", "x", "c").data)[..., channels]


def _text(error: BaseException) -> str:
    """Text of an error; that of a KeyError is not its representation."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
