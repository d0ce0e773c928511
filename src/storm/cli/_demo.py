"""``storm demo``: every step on one section, with scores where the truth is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import storm
from storm import _keys, metrics
from storm._bridge import read_spots, select_table
from storm._palette import palette
from storm.cli._stores import check_parent, write_store
from storm.data.normalise import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

    from storm import StormModel

#: Columns of obs that may hold annotated domains; the first one that exists is used.
_TRUTH = ("domain", "label")
#: Labels that mean that a spot was not annotated.
_UNLABELLED = ("undetermined",)


@dataclass
class Report:
    """Contents of the table that is printed at the end."""

    stages: dict[str, float] = field(default_factory=dict)
    domains: dict[str, dict[str, Any]] = field(default_factory=dict)
    expression: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of one stage in seconds."""
        start = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - start


def demo(
    *,
    dataset: str,
    out: Path,
    n: int | None,
    seed: int,
    model: str,
    tile_encoder: Path | None,
    device: str,
    each_modality: bool,
    overwrite: bool,
) -> None:
    """``storm demo``."""
    written = out / "section.zarr"
    _check_out(written, out=out, overwrite=overwrite)
    report = Report()
    with report.stage("load the model"):
        loaded = storm.load_model(model, tile_encoder=tile_encoder)
    with report.stage("section"):
        sdata = _section(dataset, n=n, seed=seed)
    _, table = select_table(sdata)
    truth = next((name for name in _TRUTH if name in table.obs), None)
    number = _n_domains(table, truth)

    if sdata.images:
        # Encoded once for all that follows.
        with report.stage("encode the tiles"):
            storm.tl.encode_tiles(sdata, loaded.tile_encoder, tile_px=loaded.tile_px, device=device)
    with report.stage("embed"):
        storm.tl.embed(sdata, model=loaded, device=device, seed=seed)
    with report.stage("domains"):
        storm.tl.domains(sdata, number, seed=seed)
    used = table.uns[_keys.UNS][_keys.X_STORM]["modality"]
    report.domains[_NAMES[used]] = _score(sdata, table, truth)
    if each_modality and used == "both":
        with report.stage("embed and domains, each modality alone"):
            for modality in _ALONE:
                alone = storm.tl.embed(sdata, model=loaded, modality=modality, device=device, seed=seed, copy=True)
                storm.tl.domains(alone, number, seed=seed)
                report.domains[_NAMES[modality]] = _score(alone, select_table(alone)[1], truth)

    shown: list[str] = []
    if sdata.images and table.n_vars:
        shown = _virtual_genes(sdata, table, report, model=loaded, device=device)
    with report.stage("figures and files"):
        out.mkdir(parents=True, exist_ok=True)
        files = _figures(sdata, out, truth=truth, genes=shown, gap=report.expression.get("gap"))
        write_store(sdata, written, overwrite=overwrite)
    _print(report, sdata, table, dataset=dataset, files=[written, *files])


_FIGURES = ("he.png", "domains.png", "expression.png")
_NAMES = {"both": "H&E + ST", "he": "H&E", "st": "ST"}
_ALONE: tuple[Literal["he"], Literal["st"]] = ("he", "st")


def _check_out(written: Path, *, out: Path, overwrite: bool) -> None:
    """Raise unless the demo's files can be written."""
    existing = [path for path in (written, *(out / name for name in _FIGURES)) if path.exists()]
    if existing and not overwrite:
        msg = f"{existing[0]} exists; give another --out, or --overwrite"
        raise FileExistsError(msg)
    if written.exists() and not (written / "zarr.json").is_file():
        msg = f"{written} is not a zarr store, so --overwrite does not replace it; give another --out"
        raise FileExistsError(msg)
    check_parent(written, option="--out", shown=out)


def _section(dataset: str, *, n: int | None, seed: int) -> SpatialData:
    """The toy section, or one of a public data set."""
    name, _, which = dataset.partition(":")
    if name == "toy":
        platform: Any = which or "visium"
        return storm.datasets.toy(platform, n=n, seed=seed)
    if n is not None:
        msg = f"--n={n} is for the toy; {dataset!r} is a real section of a fixed size"
        raise ValueError(msg)
    if name == "her2st":
        return storm.datasets.her2st(which or "C2")
    msg = f"--dataset={dataset!r} is unknown; give toy, toy:PLATFORM or her2st:SECTION"
    raise ValueError(msg)


def _n_domains(table: AnnData, truth: str | None) -> int | Literal["auto"]:
    if truth is None:
        return "auto"
    return table.obs[truth].astype(object).replace(list(_UNLABELLED), np.nan).nunique()


def _centres(sdata: SpatialData) -> np.ndarray:
    return read_spots(sdata, image=False, table=False).centres


def _score(sdata: SpatialData, table: AnnData, truth: str | None) -> dict[str, Any]:
    labels = None if truth is None else table.obs[truth]
    return metrics.score_domains(labels, table.obs[_keys.DOMAIN], _centres(sdata), unlabelled=_UNLABELLED)


def _virtual_genes(sdata: SpatialData, table: AnnData, report: Report, *, model: StormModel, device: str) -> list[str]:
    """Fit a head on the left half, predict everywhere, score on the right half; return two genes to draw."""
    field_um = model.tile_encoder.field_um
    train, test = storm.pp.split_along_x(sdata, field_um=field_um)
    x = _centres(sdata)[:, 0]
    gap = float(x[train].max()), float(x[test].min())
    with report.stage("fit the expression head on one half"):
        head = storm.tl.fit_expression(sdata, model=model, train=train, device=device)
    with report.stage("predict expression"):
        storm.tl.predict_expression(sdata, model=model, head=head, keep="all", to="layer", device=device)
    measured = log_normalise(table.X)
    predicted = np.asarray(table.layers[_keys.EXPRESSION])
    scores = metrics.score_expression(measured[test], predicted[test])
    # The head's own reliability was measured on spots that include the gap; this number is stricter.
    table.var[_keys.reliability()] = scores["r"].astype(np.float32)
    scores.update(n_train=int(train.sum()), n_test=int(test.sum()), gap=gap)
    fitted = np.isfinite(predicted[test]).any(axis=0)
    scores.update(n_genes=int(fitted.sum()), n_undefined=int(np.isnan(scores["r"][fitted]).sum()))
    report.expression = scores
    return _two_genes(scores["r"], predicted, list(table.var_names))


def _two_genes(r: np.ndarray, predicted: np.ndarray, names: list[str]) -> list[str]:
    """Return the best gene, and among the thirty best the one whose prediction correlates with it least."""
    best = [i for i in np.argsort(-np.nan_to_num(r, nan=-2.0))[:30] if np.isfinite(r[i])]
    if len(best) < 2:
        return [names[i] for i in best]
    known = np.isfinite(predicted[:, best]).all(axis=1)
    correlations = np.corrcoef(predicted[known][:, best].T)[0]
    return [names[best[0]], names[best[int(np.nanargmin(correlations))]]]


def _figures(
    sdata: SpatialData, out: Path, *, truth: str | None, genes: list[str], gap: tuple[float, float] | None
) -> list[Path]:
    """Draw the figures to files, without a screen, and return the files."""
    import matplotlib as mpl

    backend = mpl.get_backend()
    mpl.use("Agg")
    try:
        return _draw(sdata, out, truth=truth, genes=genes, gap=gap)
    finally:
        mpl.use(backend)


def _draw(
    sdata: SpatialData, out: Path, *, truth: str | None, genes: list[str], gap: tuple[float, float] | None
) -> list[Path]:
    import matplotlib.pyplot as plt

    files: list[Path] = []

    def save(figure: Any, name: str) -> None:
        figure.savefig(out / name, dpi=200)
        plt.close(figure)
        files.append(out / name)

    if sdata.images:
        storm.pl.he(sdata)
        save(plt.gcf(), _FIGURES[0])
    _, table = select_table(sdata)
    panels: dict[str, dict[str, str] | None] = {} if truth is None else {truth: None}
    panels[_keys.DOMAIN] = _matched_palette(table, truth)
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.4), squeeze=False, layout="constrained")
    for ax, (key, colours) in zip(axes[0], panels.items(), strict=True):
        title = "annotated" if key == truth else "STORM domains"
        storm.pl.domains(sdata, key, ax=ax, title=title, palette=colours)
    save(figure, _FIGURES[1])
    if genes:
        axes = storm.pl.expression(sdata, genes)
        if gap is not None:
            for ax in axes[:, -1]:
                _mark_halves(ax, gap)
        save(axes[0, 0].figure, _FIGURES[2])
    return files


def _matched_palette(table: AnnData, truth: str | None) -> dict[str, str] | None:
    """Colours of the domains: each gets that of the annotated domain that it overlaps most, matched one to one."""
    if truth is None:
        return None
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    names = list(table.obs[_keys.DOMAIN].cat.categories)
    annotated = list(table.obs[truth].astype("category").cat.categories)
    counts = pd.crosstab(table.obs[_keys.DOMAIN], table.obs[truth], dropna=False)
    overlap = counts.reindex(index=names, columns=annotated, fill_value=0).to_numpy()
    colours = palette(len(annotated) + len(names))
    rows, columns = linear_sum_assignment(-overlap)
    free = iter(colours[len(annotated) :])
    matched = {names[row]: colours[column] for row, column in zip(rows, columns, strict=True)}
    return {name: matched.get(name) or next(free) for name in names}


def _mark_halves(ax: Axes, gap: tuple[float, float]) -> None:
    """Mark on a prediction which side the head was fitted on."""
    ax.axvspan(gap[0], gap[1], color="0.5", alpha=0.25, linewidth=0, zorder=1)
    # In the corners, which tissue leaves free; below the panel is what its correlation was measured on.
    for x, text, side in ((0.02, "fitted", "left"), (0.98, "held out", "right")):
        ax.text(x, 0.98, text, ha=side, va="top", fontsize=7, color="0.25", transform=ax.transAxes)


def _print(report: Report, sdata: SpatialData, table: AnnData, *, dataset: str, files: list[Path]) -> None:
    print(f"\n{dataset}: {table.n_obs} spots × {table.n_vars} genes" + ("" if sdata.images else ", no H&E"))
    print(f"\n{'stage':<44}{'seconds':>9}")
    for name, seconds in report.stages.items():
        print(f"{name:<44}{seconds:>9.1f}")
    print(f"{'total':<44}{sum(report.stages.values()):>9.1f}")
    print(f"\n{'domains':<16}{'K':>4}{'ARI':>8}{'NMI':>8}{'CHAOS':>8}{'PAS':>8}")
    for name, scores in report.domains.items():
        numbers = "".join(
            f"{scores[key]:>8.3f}" if key in scores else f"{'–':>8}" for key in ("ari", "nmi", "chaos", "pas")
        )
        print(f"{name:<16}{scores['n_domains']:>4}{numbers}")
    if report.expression:
        e = report.expression
        print(f"\n{'genes from H&E':<44}{'median r':>9}")
        print(f"{e['n_genes']} genes, fitted on {e['n_train']}, held out {e['n_test']} spots".ljust(44), end="")
        print(f"{e['median_r_pooled']:>9.3f}")
        width = e["gap"][1] - e["gap"][0]
        print(f"(left and right of a gap of {width:.0f} µm; {e['n_undefined']} genes are constant and have no r)")
    print("\nwritten: " + "\n         ".join(str(file) for file in files))
