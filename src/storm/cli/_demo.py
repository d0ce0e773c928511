"""``storm demo``: the whole way on one section, with scores where a truth is known."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import storm
from storm import _keys, metrics
from storm._bridge import read_spots, select_table
from storm.cli._commands import write_store
from storm.data.normalise import log_normalise
from storm.data.windows import make_windows
from storm.pl._draw import palette

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

#: Columns of obs that hold a truth, in this order.
_TRUTH = ("domain", "label")
#: Labels of a truth that mean that there is none.
_UNLABELLED = ("undetermined",)


@dataclass
class Report:
    """Rows of the table that is printed at the end."""

    stages: dict[str, float] = field(default_factory=dict)
    domains: dict[str, dict[str, Any]] = field(default_factory=dict)
    expression: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
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
    if written.exists() and not overwrite:
        msg = f"{written} exists; give another --out, or --overwrite"
        raise FileExistsError(msg)
    report = Report()
    with report.stage("load the model"):
        loaded = storm.load_model(model, tile_encoder=tile_encoder)
    with report.stage("section"):
        sdata = _section(dataset, n=n, seed=seed)
    _, table = select_table(sdata)
    truth = next((name for name in _TRUTH if name in table.obs), None)
    number = _n_domains(table, truth)
    how = {"model": loaded, "device": device}

    if sdata.images:
        # Once for all that follows, which would else encode the same tiles again.
        with report.stage("encode the tiles"):
            storm.tl.encode_tiles(sdata, loaded.tile_encoder, tile_px=loaded.tile_px, device=device)
    with report.stage("embed"):
        storm.tl.embed(sdata, seed=seed, **how)
    with report.stage("domains"):
        storm.tl.domains(sdata, number, seed=seed)
    used = table.uns[_keys.UNS][_keys.X_STORM]["modality"]
    report.domains[_NAMES[used]] = _score(sdata, table, truth)
    if each_modality and used == "both":
        with report.stage("embed and domains, each modality alone"):
            for one in ("he", "st"):
                alone = storm.tl.embed(sdata, modality=one, seed=seed, copy=True, **how)
                storm.tl.domains(alone, number, seed=seed)
                report.domains[_NAMES[one]] = _score(alone, select_table(alone)[1], truth)

    shown: list[str] = []
    if sdata.images and table.n_vars:
        shown = _virtual_genes(sdata, table, report, **how)
    with report.stage("figures and files"):
        out.mkdir(parents=True, exist_ok=True)
        files = _figures(sdata, out, truth=truth, genes=shown, gap=report.expression.get("gap"))
        if written.exists():
            shutil.rmtree(written)
        write_store(sdata, written)
    _print(report, sdata, table, dataset=dataset, files=[written, *files])


_NAMES = {"both": "H&E + ST", "he": "H&E", "st": "ST"}


def _section(dataset: str, *, n: int | None, seed: int) -> SpatialData:
    """The toy, or a section of a public data set."""
    name, _, which = dataset.partition(":")
    if name == "toy":
        return storm.datasets.toy(which or "visium", n=n, seed=seed)
    if n is not None:
        msg = f"--n={n} is for the toy; {dataset!r} is a real section, and as large as it is"
        raise ValueError(msg)
    if name == "her2st":
        return storm.datasets.her2st(which or "C2")
    msg = f"--dataset={dataset!r} is unknown; give toy, toy:PLATFORM or her2st:SECTION"
    raise ValueError(msg)


def _n_domains(table: AnnData, truth: str | None) -> int | str:
    if truth is None:
        return "auto"
    return table.obs[truth].astype(object).replace(list(_UNLABELLED), np.nan).nunique()


def _centres(sdata: SpatialData) -> np.ndarray:
    return read_spots(sdata, image=False, table=False).centres


def _score(sdata: SpatialData, table: AnnData, truth: str | None) -> dict[str, Any]:
    labels = None if truth is None else table.obs[truth]
    return metrics.score_domains(labels, table.obs[_keys.DOMAIN], _centres(sdata), unlabelled=_UNLABELLED)


def _virtual_genes(sdata: SpatialData, table: AnnData, report: Report, **how: Any) -> list[str]:
    """Fit a head on the left half, predict everywhere, score on the right half; return two genes worth a look."""
    field_um = how["model"].tile_encoder.field_um
    train, test, gap = _halves(_centres(sdata), field_um=field_um)
    with report.stage("fit the expression head on one half"):
        head = storm.tl.fit_expression(sdata, train=train, **how)
    with report.stage("predict expression"):
        storm.tl.predict_expression(sdata, head=head, to="layer", **how)
    measured = log_normalise(table.X)
    predicted = np.asarray(table.layers[_keys.EXPRESSION])
    scores = metrics.score_expression(measured[test], predicted[test])
    # What the head itself measured includes the spots of the gap: the stricter number stays.
    table.var[_keys.RELIABILITY] = scores["r"].astype(np.float32)
    scores.update(n_train=int(train.sum()), n_test=int(test.sum()), gap=gap)
    fitted = np.isfinite(predicted[test]).any(axis=0)
    scores.update(n_genes=int(fitted.sum()), n_undefined=int(np.isnan(scores["r"][fitted]).sum()))
    report.expression = scores
    return _two_genes(scores["r"], predicted, list(table.var_names))


def _halves(centres: np.ndarray, *, field_um: float) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Left and right half, bool (n,) each, and from where to where along x is the gap that belongs to neither.

    The gap is so wide that no pixel is seen from both sides: a spot sees the H&E fields of its whole window.
    """
    windows = make_windows(centres)
    reach = float(np.abs(windows.offsets[..., 0]).max()) * windows.pitch + field_um / 2
    x = centres[:, 0]
    middle = float(np.nanmedian(x))
    with np.errstate(invalid="ignore"):
        return x < middle - reach, x > middle + reach, (middle - reach, middle + reach)


def _two_genes(r: np.ndarray, predicted: np.ndarray, names: list[str]) -> list[str]:
    """The best gene, and of the thirty best the one that is least like it."""
    best = [i for i in np.argsort(-np.nan_to_num(r, nan=-2.0))[:30] if np.isfinite(r[i])]
    if len(best) < 2:
        return [names[i] for i in best]
    known = np.isfinite(predicted[:, best]).all(axis=1)
    likeness = np.corrcoef(predicted[known][:, best].T)[0]
    return [names[best[0]], names[best[int(np.nanargmin(likeness))]]]


def _figures(sdata: SpatialData, out: Path, **what: Any) -> list[Path]:
    import matplotlib as mpl

    backend = mpl.get_backend()
    mpl.use("Agg")  # files only, also where there is no screen
    try:
        return _draw(sdata, out, **what)
    finally:
        mpl.use(backend)


def _draw(
    sdata: SpatialData, out: Path, *, truth: str | None, genes: list[str], gap: tuple[float, float] | None
) -> list[Path]:
    import matplotlib.pyplot as plt

    files = []

    def save(figure: Any, name: str) -> None:
        figure.savefig(out / name, dpi=200)
        plt.close(figure)
        files.append(out / name)

    if sdata.images:
        save(storm.pl.he(sdata).figure, "he.png")
    _, table = select_table(sdata)
    panels = {_keys.DOMAIN: _matched_palette(table, truth)}
    if truth:
        panels = {truth: None, **panels}
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.4), squeeze=False, layout="constrained")
    for ax, (key, colours) in zip(axes[0], panels.items(), strict=True):
        title = "annotated" if key == truth else "STORM domains"
        storm.pl.domains(sdata, key, ax=ax, title=title, palette=colours)
    save(figure, "domains.png")
    if genes:
        axes = storm.pl.expression(sdata, genes)
        for ax in axes[:, -1] if gap else ():
            _mark_halves(ax, gap)
        save(axes[0, 0].figure, "expression.png")
    return files


def _matched_palette(table: AnnData, truth: str | None) -> dict[str, str] | None:
    """Colours of the domains: each has that of the annotated one with which it shares most, one to one."""
    if truth is None:
        return None
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    shared = pd.crosstab(table.obs[_keys.DOMAIN], table.obs[truth], dropna=False)
    names = list(table.obs[_keys.DOMAIN].cat.categories)
    wanted = list(table.obs[truth].astype("category").cat.categories)
    shared = shared.reindex(index=names, columns=wanted, fill_value=0).to_numpy()
    colours = palette(len(wanted) + len(names))
    rows, columns = linear_sum_assignment(-shared)
    free = iter(colours[len(wanted) :])
    matched = {names[row]: colours[column] for row, column in zip(rows, columns, strict=True)}
    return {name: matched.get(name) or next(free) for name in names}


def _mark_halves(ax: Axes, gap: tuple[float, float]) -> None:
    """Say on a prediction which side the head was fitted on."""
    ax.axvspan(*gap, color="0.5", alpha=0.25, linewidth=0, zorder=1)
    where = {"transform": ax.get_xaxis_transform(), "va": "top", "fontsize": 7, "color": "0.25"}
    ax.text(gap[0], -0.01, "fitted ←", ha="right", **where)
    ax.text(gap[1], -0.01, "→ held out", ha="left", **where)


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
