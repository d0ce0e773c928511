"""``storm check``: look at sections before anything long is computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import storm
from storm.cli._commands import read_store
from storm.cli._say import one_line


def check(
    *, paths: list[Path], model: str, tile_encoder: Path | None, figures: Path | None, strict: bool, **options: Any
) -> int:
    """Check stored sections and print a report for each.

    Returns
    -------
    Exit status: 0; 1 if a check fails (``strict``: or warns); 2 if a section cannot be opened or a key does not exist.

    Raises
    ------
    ValueError
        If two sections would be drawn into one file.
    """
    drawn = {path: None if figures is None else figures / f"{path.resolve().stem}.png" for path in paths}
    for path, target in drawn.items():
        if twice := [str(p) for p in paths if target is not None and drawn[p] == target and p != path]:
            msg = f"{path} and {', '.join(twice)} would both be drawn to {target}; check them apart, or rename one"
            raise ValueError(msg)
    loaded = storm.load_model(model, tile_encoder=tile_encoder)
    field_um = options.pop("field_um") or loaded.tile_encoder.field_um
    keys = {name: value for name, value in options.items() if name not in ("device", "estimate")}
    status = 0
    for path in paths:
        try:
            sdata = read_store(path)
            report = storm.pp.check(sdata, model=loaded, field_um=field_um, **options)
            print(f"{path}: {report}")
            status = max(status, int(not report.ok or (strict and report.verdict == "warn")))
            if drawn[path] is not None:
                _draw(sdata, drawn[path], field_um=field_um, **keys)
        except (ValueError, KeyError, TypeError, OSError) as error:
            if len(paths) == 1:
                raise
            print(f"storm check: {path}: error: {one_line(error)}", file=sys.stderr)
            status = 2
    return status


def _draw(sdata: Any, path: Path, **how: Any) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    try:
        figure = storm.pl.check(sdata, **how)[0].figure
    except ValueError as error:
        # The report has said what is wrong.
        print(f"storm check: no figure {path}: {one_line(error)}", file=sys.stderr)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
