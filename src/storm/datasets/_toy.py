"""The toy section: drawn from scratch, with a known truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm._checks import check_choice, check_positive
from storm.datasets import _expression as expression
from storm.datasets._ground import frame_side
from storm.datasets._layouts import PLATFORMS, Layout, lattice, names, on_tissue, tissue_area
from storm.datasets._nuclei import Nuclei, make_nuclei
from storm.datasets._panel import all_genes, make_panel
from storm.datasets._tissue import Section, make_section
from storm.datasets._types import CELLS, DOMAINS, ERYTHROCYTE

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

PlatformName = Literal["visium", "visium_hd", "xenium", "cosmx", "st"]


def toy(
    platform: PlatformName = "visium",
    *,
    n: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    um_per_px: float | None = None,
    n_genes: int | None = None,
    truth: bool = False,
) -> SpatialData:
    """Draw a synthetic section: an H&E-like image, spots, bins or cells, and counts whose truth is known.

    Five domains (invasive cancer, connective tissue, adipose tissue, immune infiltrate, breast glands) with smooth,
    irregular borders are planted. Nuclei of nine cell types, each of its own size, shape and stain, glands, vessels,
    fibres and fat vacuoles are drawn into them and coloured with haematoxylin and eosin by Beer-Lambert's law. Inside
    of a domain the morphology varies: nuclei per area, lymphocyte infiltration, grade (size and pleomorphism of tumour
    nuclei), density of the collagen. Counts are negative-binomial around what the cells drawn under a spot express, so
    they follow domain and morphology; interferon-induced genes follow a field that cannot be seen, and 20 genes are
    pure noise.

    Parameters
    ----------
    platform
        ``"visium"``: 55 µm spots, hexagonal lattice of 100 µm pitch. ``"visium_hd"``: square bins of 8 µm. ``"st"``:
        100 µm spots, square lattice of 200 µm pitch. ``"xenium"``, ``"cosmx"``: cells with outlines, a smaller panel.
    n
        Number of spots, bins or cells; by default 1,000, 20,000, 300, 4,000 and 4,000. The section is as large as
        they need.
    seed
        The same seed draws the same section, bit for bit, in memory or to a store.
    path
        Folder of a zarr store to be written. The image is then painted tile by tile in bounded memory and the object
        that is returned is read from the store.
    um_per_px
        µm per pixel of the full-resolution image; by default 1.0 for Visium and ST, else 0.5. The same seed draws the
        same tissue at any resolution.
    n_genes
        Keep that many genes of 306, spread over all groups. By default all, or 220 and 200 for Xenium and CosMx.
    truth
        Also store the expected counts (before capture efficiency and noise) as ``layers["rate"]``.

    Returns
    -------
    SpatialData
        ``images["he"]`` multiscale uint8 (c, y, x); ``shapes["spots" | "bins" | "cells"]``; ``tables["table"]`` raw
        counts (CSR, float32). Coordinate systems ``"global"`` (pixels) and ``"um"`` (µm). ``obs["domain"]`` is the
        planted domain, ``obsm["cells"]`` the number of cells of each type of ``uns["toy"]["cell_types"]`` under every
        spot or bin (cells: ``obs["cell_type"]``), ``obs["array_row"]`` and ``["array_col"]`` the place on the lattice,
        ``uns["toy"]`` also what was asked for.

    Raises
    ------
    ValueError
        For an unknown platform, or numbers out of range.
    FileExistsError
        If ``path`` exists.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> sdata["table"].shape
    (150, 306)
    """
    check_choice(platform, PLATFORMS, name="platform")
    spec = PLATFORMS[platform]
    n = spec.n if n is None else n
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 20:
        msg = f"n={n!r} must be an integer of at least 20: a section of fewer {spec.shapes} has no domains"
        raise ValueError(msg)
    um_per_px = spec.um_per_px if um_per_px is None else um_per_px
    check_positive(um_per_px, name="um_per_px", unit="µm")
    if n_genes is not None and not 1 <= n_genes <= len(all_genes()):
        msg = f"n_genes={n_genes!r} must be between 1 and {len(all_genes())}"
        raise ValueError(msg)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"seed={seed!r} must be an integer of at least 0"
        raise ValueError(msg)
    store = None if path is None else Path(path)
    if store is not None and store.exists():
        msg = f"{store} exists; remove it or give another path"
        raise FileExistsError(msg)

    from storm.datasets._assemble import in_memory, make_shapes, on_disk
    from storm.datasets._paint import Painter

    section, nuclei, layout, cells = _draw(platform, int(n), int(seed))
    ids = names(platform, layout, section.seed)
    table = _make_table(platform, section, nuclei, layout, cells, ids, n_genes=n_genes or spec.genes, truth=truth)
    painter = Painter(section, nuclei, um_per_px=float(um_per_px))
    shapes = make_shapes(platform, layout, cells, table.obs[spec.instance_key].to_numpy(), um_per_px=float(um_per_px))
    # in the units of the shapes, as the platform's readers leave it
    table.obsm["spatial"] = layout.centres / (1.0 if platform == "xenium" else um_per_px)
    facts = {"platform": platform, "n": int(n), "seed": int(seed), "um_per_px": float(um_per_px), "synthetic": True}
    table.uns["toy"] = table.uns.get("toy", {}) | facts
    attrs: dict[str, Any] = {"toy": dict(facts)}
    if store is None:
        return in_memory(painter, table, shapes, spec.shapes, attrs)
    return on_disk(store, painter, table, shapes, spec.shapes, attrs)


def _draw(platform: str, n: int, seed: int) -> tuple[Section, Nuclei, Layout, Nuclei | None]:
    """Section cut to hold ``n`` observations, its nuclei, the observations, and, if they are cells, these as nuclei."""
    side = frame_side(tissue_area(platform, n))
    if PLATFORMS[platform].shapes != "cells":
        section = make_section(seed=seed, side=side)
        layout, level = on_tissue(lattice(platform, side), section, n)
        return replace(section, level=level), make_nuclei(section), layout, None
    while True:
        section = make_section(seed=seed, side=side)
        nuclei = make_nuclei(section)
        cells = np.flatnonzero(nuclei.kind != ERYTHROCYTE)
        if len(cells) >= 1.02 * n / 0.9:
            break
        side *= 1.1
    layout, level = on_tissue(Layout.free(nuclei.xy[cells]), section, n)
    section = replace(section, level=level)
    kept = cells[section.outline(nuclei.xy[cells]) > level]
    kept = kept[np.argsort(nuclei.xy[kept, 1], kind="stable")]
    return section, nuclei, Layout.free(nuclei.xy[kept]), nuclei.take(kept)


def _make_table(
    platform: str,
    section: Section,
    nuclei: Nuclei,
    layout: Layout,
    cells: Nuclei | None,
    ids: pd.Index,
    *,
    n_genes: int | None,
    truth: bool,
) -> AnnData:
    from anndata import AnnData
    from spatialdata.models import TableModel

    spec = PLATFORMS[platform]
    panel = make_panel(section.seed, n_genes=n_genes)
    if cells is not None:
        abundance = expression.of_cells(cells)
    elif spec.shapes == "bins":
        points = expression.rna_points(section, nuclei)
        abundance = expression.in_bins(points, layout.rows, layout.cols, spec.pitch)
    else:
        points = expression.rna_points(section, nuclei)
        abundance = expression.under_spots(points, layout.centres, spec.size / 2)

    def expected():
        return expression.expected_counts(section, panel, layout.centres, abundance, depth=spec.depth)

    counts, capture = expression.draw_counts(expected(), panel, seed=section.seed)
    domain = _domain(section, layout.centres, 0.0 if cells is not None else spec.size / 2)
    obs = pd.DataFrame(index=ids)
    obs["region"] = pd.Categorical([spec.shapes] * len(ids))
    obs[spec.instance_key] = ids.to_numpy() if platform in ("xenium", "st") else np.arange(len(ids))
    if cells is None:
        obs["array_row"], obs["array_col"] = layout.rows, layout.cols
        if platform.startswith("visium"):
            obs["in_tissue"] = 1
    obs["domain"] = pd.Categorical.from_codes(domain, categories=pd.Index(DOMAINS))
    obs["capture"] = capture
    if cells is not None:
        obs["cell_type"] = pd.Categorical.from_codes(cells.kind, categories=pd.Index(CELLS))
    table = AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(panel.genes)))
    if cells is None:
        # An array, because objects with a data frame there cannot be put together by spatialdata.concatenate.
        table.obsm["cells"] = abundance
        table.uns["toy"] = {"cell_types": list(CELLS)}
    if truth:
        table.layers["rate"] = np.concatenate(list(expected()))
    return TableModel.parse(table, region=spec.shapes, region_key="region", instance_key=spec.instance_key)


def _domain(section: Section, centres: np.ndarray, radius: float) -> np.ndarray:
    """Code of the domain that covers most of every observation."""
    weights = section.weights(centres)
    if radius > 10:
        for turn in np.arange(6) * np.pi / 3:
            weights += section.weights(centres + 0.7 * radius * np.array([np.cos(turn), np.sin(turn)]))
    return weights.argmax(axis=1)
