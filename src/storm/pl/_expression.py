"""Measured and predicted genes beside the H&E."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from storm import _keys
from storm._bridge import Keys, read_view, select_table
from storm._bridge.standalone import standalone
from storm._bridge.study import given_once
from storm._checks import check_choice
from storm._palette import OKABE_ITO
from storm.data.novelty import FIVEFOLD
from storm.pl import _draw
from storm.pl._arguments import check_axes, check_cmap, check_style
from storm.pl._genes import Gene, Prediction, read_gene

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from spatialdata import SpatialData

    from storm._bridge import SectionView
    from storm._bridge.standalone import Standalone

__all__ = ["expression"]

#: Percentiles of the values that span a colour scale.
_SPAN = (1, 99)
#: Colour of what is said of a gene that was predicted no better than chance.
_USELESS = OKABE_ITO[5]


def expression(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    genes: str | Sequence[str],
    *,
    key: str = _keys.EXPRESSION,
    predictions: Sequence[str] | Mapping[str, str] | None = None,
    layer: str | None = None,
    log1p: bool | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    axes: np.ndarray | None = None,
    scale: Literal["shared", "own"] = "shared",
    cmap: str = "viridis",
    size: float = 1.0,
    image_alpha: float = 0.0,
    scale_bar: bool = True,
) -> np.ndarray:
    """Draw genes as measured and as predicted, beside the H&E: one row per gene, one frame in µm for all panels.

    Each prediction says how far to believe it: its correlation on held-out spots (and the lowest in a section), on what
    that was measured, the prediction interval, and whether many tiles here are unlike those of the training.

    A panel is left out if there is nothing to draw: the H&E without an image, "measured" if none of the genes was
    measured, "predicted" if none was predicted (run :func:`storm.tl.predict_expression` first).

    Of several sections, each gene has one row per section, in the same colours and at the same scale.

    Parameters
    ----------
    data
        A section, a table of several, or a list.
    genes
        Names of one or more genes.
    key
        Key of the prediction: ``layers[key]`` of the table, or otherwise the table ``"<table>_<key>"``.
    predictions
        Several predictions to draw side by side, by their keys, or keys by their titles, such as
        ``{"head of C": "storm", "head of B": "other"}``; ``None`` draws that of ``key``.
    layer
        Layer with the measured values; ``None`` is ``X``.
    log1p
        Whether to draw measured values as log1p(counts per 10,000), the scale of the prediction. ``None`` does so if
        they are whole numbers.
    library_key
        Column of ``obs`` that names the section of each row; see :func:`storm.pl.domains`.
    image_key
        The H&E image, or that of each section by its name.
    table_key, shapes_key, coordinate_system, um_per_px
        Elements to read and the scale, as in :func:`storm.tl.embed`; needed only if there are several.
    axes
        Axes to draw into, shape (genes × sections, panels); ``None`` makes a figure.
    scale
        ``"shared"`` gives all panels of a gene the same colour scale, from the values of all: a prediction is smoother
        than a measurement, so its range is smaller, and it looks so. ``"own"`` gives each panel a scale of its own,
        which shows the pattern of a prediction that hardly varies.
    cmap
        Colour map of matplotlib, or its name.
    size
        Factor on the size of the spots.
    image_alpha
        Opacity of the H&E under measured and predicted spots, from 0 to 1.
    scale_bar
        Whether to draw a scale bar; it needs a known scale.

    Returns
    -------
    ndarray
        The axes, shape (genes × sections, panels), in µm with y down: the sections of the first gene, of the second, …
        Those of the colour bars are not among them.

    Raises
    ------
    KeyError
        If a gene is neither measured nor predicted, or a key does not exist.
    ValueError
        If no gene is given, a gene's name is not unique, ``axes`` have another shape, or an option is invalid.
    TypeError
        If a gene or a key is not text, values are not numbers, or a size or opacity is not a number.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=200)
        >>> train, test = storm.pp.split_along_x(sdata)
        >>> head = storm.tl.fit_expression(sdata, ["EPCAM", "COL1A1"], train=train)
        >>> storm.tl.predict_expression(sdata, head=head)
        >>> axes = storm.pl.expression(sdata, ["EPCAM", "COL1A1"])
    """
    check_style(size=size, image_alpha=image_alpha)
    check_cmap(cmap)
    check_choice(scale, ("shared", "own"), name="scale")
    names = _names(genes)
    titles = _titles(key, predictions)
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px
    )  # fmt: skip
    # Read whole: predictions may lie in a table of their own, and colour scales are those of all sections.
    whole: dict[int, list[Gene]] = {}
    for one in given_once(data):
        table_name, table = select_table(one, table_key)
        whole[id(one)] = [
            read_gene(one, table, name, table_key=table_name, keys=list(titles), layer=layer, log1p=log1p)
            for name in names
        ]
    sections = standalone(data, keys, library_key=library_key, image_key=image_key, counts=False)
    max_px = _draw.longest_px(len(sections))
    optional = image_key is None and um_per_px is None  # what was asked for is drawn, or its absence is an error
    views = [read_view(section.make(), section.keys, max_px=max_px, optional=optional) for section in sections]
    frames = _draw.same_scale(views)
    values = [gene for own in whole.values() for gene in own]
    he = any(view.image is not None for view in views)
    panels: list[str | None] = [None] if any(gene.measured is not None for gene in values) else []
    panels += [one for one in titles if any(gene.predictions[one].values is not None for gene in values)]
    grid = _grid(axes, frames, shape=(len(names) * len(sections), he + len(panels)))
    headings = [*(["H&E"] if he else []), *("measured" if one is None else titles[one] for one in panels)]
    for ax, heading in zip(grid[0], headings, strict=True):
        ax.set_title(heading, fontsize=10)
    rows = iter(grid)
    for number, name in enumerate(names):
        norms = _norms([own[number] for own in whole.values()], scale=scale)
        for section, view, frame in zip(sections, views, frames, strict=True):
            row, gene = next(rows), _of_section(whole[id(section.source)][number], section)
            if he:
                _draw.histology(row[0], view)
            for ax, panel in zip(row[int(he) :], panels, strict=True):
                _values(ax, view, gene, panel=panel, norm=norms.get(panel), cmap=cmap, size=size, alpha=image_alpha)
            for ax in row:
                _draw.frame(ax, view, title=None, scale_bar=scale_bar and ax is row[0], extent=frame)
            row[0].set_ylabel(name, fontsize=11, fontstyle="italic")
            if len(sections) > 1:
                row[0].set_ylabel(f"{name}, {section.name}", fontsize=9, fontstyle="italic")
    return grid


def _titles(key: Any, predictions: Any) -> dict[str, str]:
    """Titles of the predictions to draw, by their keys."""
    if predictions is None:
        titles = {key: "predicted"}
    elif isinstance(predictions, Mapping):
        titles = {one: title for title, one in predictions.items()}
    else:
        keys = [predictions] if isinstance(predictions, str) else list(predictions)
        titles = {one: f"predicted: {one}" for one in keys}
    if wrong := [one for pair in titles.items() for one in pair if not isinstance(one, str)]:
        msg = f"{wrong[0]!r} is a {type(wrong[0]).__name__}; give keys of predictions, and their titles, as text"
        raise TypeError(msg)
    if not titles:
        msg = "predictions is empty; name at least one key, or leave it out"
        raise ValueError(msg)
    return titles


def _of_section(gene: Gene, section: Standalone) -> Gene:
    """The values of one section."""
    rows = section.rows
    if rows is None:
        return gene
    predictions = {
        key: one if one.values is None else replace(one, values=one.values[rows])
        for key, one in gene.predictions.items()
    }
    measured = None if gene.measured is None else gene.measured[rows]
    return replace(gene, measured=measured, predictions=predictions)


def _names(genes: Any) -> list[str]:
    """Return the genes to draw as a list."""
    names = [genes] if isinstance(genes, str) else list(genes) if isinstance(genes, Iterable) else [genes]
    if not names:
        msg = "genes is empty; name at least one gene, for example storm.pl.expression(data, 'EPCAM')"
        raise ValueError(msg)
    if wrong := [name for name in names if not isinstance(name, str)]:
        msg = f"genes holds {wrong[:3]}; genes are given by name, for example ['EPCAM', 'COL1A1']"
        raise TypeError(msg)
    return names


def _grid(axes: np.ndarray | None, frames: list[_draw.Frame], *, shape: tuple[int, int]) -> np.ndarray:
    if axes is None:
        return _draw.new_axes(frames, rows=shape[0], columns=shape[1], width=3.2)
    grid = np.asarray(axes, dtype=object)
    for ax in grid.flat:
        check_axes(ax)
    if grid.size != shape[0] * shape[1]:
        msg = f"axes have shape {grid.shape}, but there are {shape[0]} rows of {shape[1]} panels: give shape {shape}"
        raise ValueError(msg)
    return grid.reshape(shape)


def _norms(genes: list[Gene], *, scale: str) -> dict[str | None, Normalize]:
    """Return the colour scale of each panel, of one gene in all objects: by key, ``None`` for what was measured."""
    from matplotlib.colors import Normalize

    panels: dict[str | None, list[np.ndarray | None]] = {None: [gene.measured for gene in genes]}
    panels |= {key: [gene.predictions[key].values for gene in genes] for key in genes[0].predictions}
    present = {panel: [own for own in parts if own is not None] for panel, parts in panels.items()}
    together = {panel: np.concatenate(parts) for panel, parts in present.items() if parts}
    finite = {panel: values[np.isfinite(values)] for panel, values in together.items()}
    if scale == "shared":
        finite = dict.fromkeys(finite, np.concatenate(list(finite.values())))
    norms = {}
    for panel, values in finite.items():
        low, high = np.percentile(values, _SPAN) if values.size else (0.0, 1.0)
        # The percentiles of a gene with counts in very few spots may be equal; its range then ends at its maximum.
        norms[panel] = Normalize(low, high if high > low else max(float(values.max(initial=low)), low + 1e-6))
    return norms


def _values(
    ax: Axes,
    view: SectionView,
    gene: Gene,
    *,
    panel: str | None,
    norm: Normalize | None,
    cmap: str,
    size: float,
    alpha: float,
) -> None:
    """Draw one panel of values with its colour bar: what was measured, or the prediction of a key."""
    predicted = None if panel is None else gene.predictions[panel]
    values = gene.measured if predicted is None else predicted.values
    if values is None or norm is None or not np.isfinite(values).any():
        what = "not measured" if predicted is None else "not predicted"
        ax.text(0.5, 0.5, what, transform=ax.transAxes, ha="center", va="center", color="0.4", fontsize=9)
        return
    _draw.histology(ax, view, alpha=alpha)
    rows = view.placed[np.isfinite(values[view.placed])]
    drawn = _draw.spots(ax, view, rows, size=size, values=values[rows], cmap=cmap, norm=norm)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.7, aspect=18, pad=0.02, extend=_extend(values, norm))
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    bar.set_label(gene.unit if predicted is None else predicted.unit, fontsize=7)
    if predicted is not None:
        colour = "0.25" if not predicted.r <= 0 else _USELESS
        ax.set_xlabel("\n".join(_trust(predicted)), fontsize=7.5, color=colour, labelpad=3)


def _trust(prediction: Prediction) -> list[str]:
    """How far to believe a prediction, in lines."""
    lines = []
    if np.isfinite(prediction.r):
        # Of one section, it is the same.
        worse = prediction.lowest < prediction.r - 0.005
        lowest = f" ({prediction.lowest:.2f} in the worst section)" if worse else ""
        lines.append(f"held-out r = {prediction.r:.2f}{lowest}".replace("-0", "−0"))
        if prediction.r <= 0:
            lines.append("no better than chance")
        if prediction.measured_on:
            lines.append(f"measured on {prediction.measured_on}")
    if np.isfinite(prediction.interval).all():
        level = f"{prediction.level:.0%} " if np.isfinite(prediction.level) else ""
        depth = f", in spots of {prediction.depth:,.0f} counts" if np.isfinite(prediction.depth) else ""
        lower, upper = prediction.interval
        lines.append(f"{level}interval {lower:+.1f} to {upper:+.1f}{depth}".replace("-", "−"))
    if prediction.unusual > FIVEFOLD:
        lines.append(f"{prediction.unusual:.0%} of the tiles here are unlike those")
    return lines


def _extend(values: np.ndarray, norm: Normalize) -> Literal["neither", "both", "min", "max"]:
    # Arrow heads of the colour bar, for values beyond its ends.
    below, above = np.nanmin(values) < norm.vmin, np.nanmax(values) > norm.vmax
    return "both" if below and above else "min" if below else "max" if above else "neither"
