"""Measured and predicted genes beside the H&E."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from storm import _keys
from storm._bridge import Keys, read_view, select_table
from storm._checks import check_choice
from storm.pl import _draw
from storm.pl._genes import Gene, read_gene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from spatialdata import SpatialData

    from storm._bridge import SectionView

__all__ = ["expression"]

#: Percentiles of the values that span a colour scale.
_SPAN = (1, 99)


def expression(
    data: SpatialData | AnnData,
    genes: str | Sequence[str],
    *,
    key: str = _keys.EXPRESSION,
    layer: str | None = None,
    log1p: bool | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
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

    What is not there has no panel: the H&E where there is no image, "measured" where none of the genes is measured,
    "predicted" where none is predicted (run :func:`storm.tl.predict_expression` first).

    Parameters
    ----------
    data
        The section.
    genes
        Names of one or more genes.
    key
        Where the prediction lies: ``layers[key]`` of the table, else the table ``"<table>_<key>"``.
    layer
        Layer with the measured values; ``None`` is ``X``.
    log1p
        Whether to show measured values as log1p(counts per 10,000), the scale of the prediction. ``None`` does so if
        they are whole numbers.
    table_key, image_key, shapes_key, coordinate_system, um_per_px
        What to read, and the scale, as in :func:`storm.tl.embed`; needed only where there are several.
    axes
        Axes to draw into, shape (genes, panels); ``None`` makes a figure.
    scale
        ``"own"`` gives each panel its own colour bar (a prediction is smoother than a measurement, so its range is
        smaller); ``"shared"`` gives a gene's two panels one scale, from the values of both.
    cmap
        Colour map.
    size
        Factor on the size of the spots.
    image_alpha
        Opacity of the H&E under measured and predicted spots.
    scale_bar
        Whether to draw a scale bar (where µm are known).

    Returns
    -------
    The axes, shape (genes, panels), in µm with y down; without those of the colour bars.

    Raises
    ------
    KeyError
        If a gene is neither measured nor predicted, or a key does not exist.
    ValueError
        If ``axes`` have another shape, or ``scale`` is unknown.
    """
    check_choice(scale, ("shared", "own"), name="scale")
    names = [genes] if isinstance(genes, str) else list(genes)
    table_name, table = select_table(data, table_key)
    found = [read_gene(data, table, name, table_key=table_name, key=key, layer=layer, log1p=log1p) for name in names]
    view = read_view(
        data,
        Keys(
            table_key=table_key,
            image_key=image_key,
            shapes_key=shapes_key,
            coordinate_system=coordinate_system,
            um_per_px=um_per_px,
        ),
    )
    panels = [
        panel
        for panel, present in (
            ("H&E", view.image is not None),
            ("measured", any(gene.measured is not None for gene in found)),
            ("predicted", any(gene.predicted is not None for gene in found)),
        )
        if present
    ]
    grid = _grid(axes, view, shape=(len(names), len(panels)))
    for row, gene in zip(grid, found, strict=True):
        norms = _norms(gene, scale=scale)
        for ax, panel in zip(row, panels, strict=True):
            if panel == "H&E":
                _draw.histology(ax, view)
            else:
                _values(ax, view, gene, panel=panel, norm=norms.get(panel), cmap=cmap, size=size, alpha=image_alpha)
            title = panel if ax in grid[0] else None
            _draw.frame(ax, view, title=title, scale_bar=scale_bar and ax is row[0])
        row[0].set_ylabel(gene.name, fontsize=11, fontstyle="italic")
    return grid


def _grid(axes: np.ndarray | None, view: SectionView, *, shape: tuple[int, int]) -> np.ndarray:
    if axes is None:
        return _draw.new_axes(view, rows=shape[0], columns=shape[1], width=3.2)
    grid = np.asarray(axes, dtype=object)
    if grid.size != shape[0] * shape[1]:
        msg = f"axes have shape {grid.shape}, but there are {shape[0]} genes of {shape[1]} panels: give shape {shape}"
        raise ValueError(msg)
    return grid.reshape(shape)


def _norms(gene: Gene, *, scale: str) -> dict[str, Normalize]:
    """Colour scale of each panel."""
    from matplotlib.colors import Normalize

    there = {"measured": gene.measured, "predicted": gene.predicted}
    finite = {panel: values[np.isfinite(values)] for panel, values in there.items() if values is not None}
    if scale == "shared":
        together = np.concatenate(list(finite.values()))
        finite = dict.fromkeys(finite, together)
    norms = {}
    for panel, values in finite.items():
        low, high = np.percentile(values, _SPAN) if values.size else (0.0, 1.0)
        # A gene found in fewer spots than the percentile reaches still has a range.
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
    """One panel of values with its colour bar."""
    values = gene.measured if panel == "measured" else gene.predicted
    if values is None or norm is None:
        ax.text(0.5, 0.5, f"not {panel}", transform=ax.transAxes, ha="center", va="center", color="0.4", fontsize=9)
        return
    _draw.histology(ax, view, alpha=alpha)
    rows = view.placed[np.isfinite(values[view.placed])]
    drawn = _draw.spots(ax, view, rows, size=size, array=values[rows], cmap=cmap, norm=norm)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.7, aspect=18, pad=0.02, extend=_extend(values, norm))
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    bar.set_label(gene.unit if panel == "measured" else gene.predicted_unit, fontsize=7)
    if panel == "predicted" and np.isfinite(gene.reliability):
        # Beside the title, not on the panel: tissue may fill that.
        ax.set_title(f"held-out r = {gene.reliability:.2f}", loc="right", fontsize=8)


def _extend(values: np.ndarray, norm: Normalize) -> Literal["neither", "both", "min", "max"]:
    below, above = np.nanmin(values) < norm.vmin, np.nanmax(values) > norm.vmax
    return "both" if below and above else "min" if below else "max" if above else "neither"
