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
from storm.pl import _draw
from storm.pl._arguments import check_axes, check_cmap, check_style
from storm.pl._genes import Gene, read_gene

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
#: Share of tiles unlike those of the head's training above which a figure says so: five times what is expected.
_UNUSUAL = 0.25


def expression(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    genes: str | Sequence[str],
    *,
    key: str = _keys.EXPRESSION,
    layer: str | None = None,
    log1p: bool | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    axes: np.ndarray | None = None,
    scale: Literal["shared", "own"] = "own",
    cmap: str = "viridis",
    size: float = 1.0,
    image_alpha: float = 0.0,
    scale_bar: bool = True,
) -> np.ndarray:
    """Draw genes as measured and as predicted, beside the H&E: one row per gene, one frame in µm for all panels.

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
        ``"own"`` gives each panel its own colour scale (a prediction is smoother than a measurement, so its range is
        smaller); ``"shared"`` gives both panels of a gene the same scale, from the values of both.
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
        If a gene is not text, values are not numbers, or a size or opacity is not a number.
    """
    check_style(size=size, image_alpha=image_alpha)
    check_cmap(cmap)
    check_choice(scale, ("shared", "own"), name="scale")
    names = _names(genes)
    if not isinstance(key, str):
        msg = f"key={key!r} is a {type(key).__name__}; give the key of a prediction as text"
        raise TypeError(msg)
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px
    )  # fmt: skip
    # Read whole: predictions may lie in a table of their own, and colour scales are those of all sections.
    whole: dict[int, list[Gene]] = {}
    for one in given_once(data):
        table_name, table = select_table(one, table_key)
        whole[id(one)] = [
            read_gene(one, table, name, table_key=table_name, key=key, layer=layer, log1p=log1p) for name in names
        ]
    sections = standalone(data, keys, library_key=library_key, image_key=image_key, counts=False)
    max_px = _draw.longest_px(len(sections))
    views = [read_view(section.make(), section.keys, max_px=max_px) for section in sections]
    frames = _draw.same_scale(views)
    values = [gene for own in whole.values() for gene in own]
    panels = [
        panel
        for panel, present in (
            ("H&E", any(view.image is not None for view in views)),
            ("measured", any(gene.measured is not None for gene in values)),
            ("predicted", any(gene.predicted is not None for gene in values)),
        )
        if present
    ]
    grid = _grid(axes, frames, shape=(len(names) * len(sections), len(panels)))
    rows = iter(grid)
    for number, name in enumerate(names):
        norms = _norms([own[number] for own in whole.values()], scale=scale)
        for section, view, frame in zip(sections, views, frames, strict=True):
            row, gene = next(rows), _of_section(whole[id(section.source)][number], section)
            for ax, panel in zip(row, panels, strict=True):
                if panel == "H&E":
                    _draw.histology(ax, view)
                else:
                    _values(ax, view, gene, panel=panel, norm=norms.get(panel), cmap=cmap, size=size, alpha=image_alpha)
                title = panel if ax in grid[0] else None
                _draw.frame(ax, view, title=title, scale_bar=scale_bar and ax is row[0], extent=frame)
            row[0].set_ylabel(name, fontsize=11, fontstyle="italic")
            if len(sections) > 1:
                row[0].set_ylabel(f"{name}, {section.name}", fontsize=9, fontstyle="italic")
    return grid


def _of_section(gene: Gene, section: Standalone) -> Gene:
    """The values of one section."""
    if section.rows is None:
        return gene
    measured, predicted = (
        None if values is None else values[section.rows] for values in (gene.measured, gene.predicted)
    )
    return replace(gene, measured=measured, predicted=predicted)


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


def _norms(genes: list[Gene], *, scale: str) -> dict[str, Normalize]:
    """Return the colour scale of each panel, of one gene in all objects."""
    from matplotlib.colors import Normalize

    panels = {"measured": [gene.measured for gene in genes], "predicted": [gene.predicted for gene in genes]}
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
    panel: str,
    norm: Normalize | None,
    cmap: str,
    size: float,
    alpha: float,
) -> None:
    """Draw one panel of values with its colour bar."""
    values = gene.measured if panel == "measured" else gene.predicted
    if values is None or norm is None or not np.isfinite(values).any():
        ax.text(0.5, 0.5, f"not {panel}", transform=ax.transAxes, ha="center", va="center", color="0.4", fontsize=9)
        return
    _draw.histology(ax, view, alpha=alpha)
    rows = view.placed[np.isfinite(values[view.placed])]
    drawn = _draw.spots(ax, view, rows, size=size, values=values[rows], cmap=cmap, norm=norm)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.7, aspect=18, pad=0.02, extend=_extend(values, norm))
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    bar.set_label(gene.unit if panel == "measured" else gene.predicted_unit, fontsize=7)
    if panel == "predicted" and np.isfinite(gene.reliability):
        # Beside the title, because tissue may fill the panel.
        ax.set_title(f"held-out r = {gene.reliability:.2f}", loc="right", fontsize=8)
        notes = [f"r measured on {gene.measured_on}"] if gene.measured_on else []
        if gene.unusual > _UNUSUAL:
            notes.append(f"{gene.unusual:.0%} of the tiles here are unlike those")
        ax.text(0.5, -0.02, "; ".join(notes), transform=ax.transAxes, ha="center", va="top", color="0.4", fontsize=7)


def _extend(values: np.ndarray, norm: Normalize) -> Literal["neither", "both", "min", "max"]:
    # Arrow heads of the colour bar, for values beyond its ends.
    below, above = np.nanmin(values) < norm.vmin, np.nanmax(values) > norm.vmax
    return "both" if below and above else "min" if below else "max" if above else "neither"
