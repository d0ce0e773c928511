"""Tiles that raise and lower the risk of a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._checks import check_between
from storm.pl._arguments import check_axes, check_cmap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from storm.prognosis import Explanation

__all__ = ["attribution"]


def attribution(
    explanation: Explanation,
    *,
    slide: str | None = None,
    gene: str | None = None,
    cmap: str = "RdBu_r",
    quantile: float = 0.99,
    ax: Axes | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw the signed contribution of each tile of a slide to the risk, in µm, y down.

    Zero is the middle of the colours. They end at a quantile of the sizes, for the figure only: the values are not
    scaled. Nothing is computed: run :func:`storm.prognosis.explain` first.

    Parameters
    ----------
    explanation
        What :func:`storm.prognosis.explain` returned.
    slide
        Name of the slide; may be left out if the patient has one.
    gene
        Draw the contribution of this gene instead of the whole tile's.
    cmap
        Diverging colour map of matplotlib, or its name.
    quantile
        Share of the tiles, by the size of their contribution, within the colours.
    ax
        Axes to draw into; ``None`` makes a figure.
    colorbar
        Whether to draw a colour bar.
    title
        Title of the axes; by default the slide's name and the patient's risk.

    Returns
    -------
    Axes
        The axes. Draw the slide itself into axes beside them with :func:`storm.pl.he`.

    Raises
    ------
    KeyError
        If there is no such slide or gene.
    ValueError
        If the patient has several slides and none is named, or the quantile is impossible.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import tempfile
        >>> import storm
        >>> cohort = storm.datasets.toy_cohort(tempfile.mkdtemp() + "/cohort", n_patients=40, n_tiles=(100, 200))
        >>> config = storm.prognosis.OutcomeFit(epochs=5)
        >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=config)
        >>> explanation = storm.prognosis.explain(model, cohort, "P0001")
        >>> ax = storm.pl.attribution(explanation)
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import PolyCollection

    if not hasattr(explanation, "slides"):
        msg = f"explanation is a {type(explanation).__name__}; give what storm.prognosis.explain returns of a patient"
        raise TypeError(msg)
    check_axes(ax)
    check_cmap(cmap)
    check_between(quantile, name="quantile", low=0.5, high=1)
    slides = explanation.slides
    if slide is None and len(slides) > 1:
        msg = f"the patient has the slides {list(slides)}; name one, such as slide={slides[0]!r}"
        raise ValueError(msg)
    name = slides[0] if slide is None else slide
    if name not in slides:
        msg = f"there is no slide {name!r}; the patient has {list(slides)}"
        raise KeyError(msg)
    values = explanation.tiles
    if gene is not None:
        if explanation.genes is None or gene not in explanation.gene_names:
            msg = f"there is no contribution of gene {gene!r}; there are {list(explanation.gene_names)[:10]} …"
            raise KeyError(msg)
        values = explanation.genes[:, explanation.gene_names.index(gene)]
    own = explanation.slide == slides.index(name)
    values, centres = np.asarray(values)[own], explanation.xy_um[own]
    if ax is None:
        ax = plt.subplots(figsize=(5, 4.4), layout="constrained")[1]
    half = (explanation.tile_um if np.isfinite(explanation.tile_um) else 1.0) / 2
    corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    limit = max(float(np.quantile(np.abs(values), quantile)), 1e-12)
    tiles = PolyCollection(list(centres[:, None, :] + corners), array=values, cmap=cmap, clim=(-limit, limit))
    ax.add_collection(tiles)
    ax.set(
        xlim=(centres[:, 0].min() - half, centres[:, 0].max() + half),
        ylim=(centres[:, 1].max() + half, centres[:, 1].min() - half),
        aspect="equal",
        xlabel="x (µm)",
        ylabel="y (µm)",
    )
    if colorbar:
        what = "contribution to the risk" if gene is None else f"contribution of {gene}"
        ax.figure.colorbar(tiles, ax=ax, shrink=0.8, label=what, extend="both" if quantile < 1 else "neither")
    ax.set_title(f"{name}, risk {explanation.risk:.2f}" if title is None else title, fontsize=10)
    return ax
