"""``storm check``: check sections before anything long is computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import storm
from storm import _keys
from storm._files import replacing
from storm.cli._say import one_line, said
from storm.cli._stores import Section, check_parent, open_section, read_store
from storm.cli._stores import store as save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Marks a picture, in its metadata, as drawn by this command.
_SOFTWARE = "storm check"


def check(
    *,
    paths: list[Path],
    model: str,
    tile_encoder: Path | None,
    figures: Path | None,
    strict: bool,
    estimate: bool,
    table_key: str | None,
    library_key: str | None,
    field_um: float | None,
    device: str,
    store: bool,
    **read: Any,
) -> int:
    """Check stored sections and print a report for each.

    Returns
    -------
    int
        Exit status: 0; 1 if a check fails (with ``strict``: or warns); 2 if a section cannot be opened or a key does
        not exist.

    Raises
    ------
    ValueError
        If two stores would be drawn into one file.
    FileExistsError
        If a file to be drawn exists and is something else.
    """
    drawings = {} if figures is None else _drawings(paths, figures)
    loaded = storm.load_model(model, tile_encoder=tile_encoder)
    field_um = field_um or loaded.tile_encoder.field_um
    status = 0
    for path in paths:
        try:
            section = open_section(path, None, table_key=table_key) if store else Section(read_store(path), path, None)
            sdata = section.sdata
            report = storm.pp.check(
                sdata,
                model=loaded,
                table_key=table_key,
                library_key=library_key,
                field_um=field_um,
                device=device,
                estimate=estimate,
                store=store,
                **read,
            )
            if store:
                save(section, table_key=table_key, uns=[_keys.CHECK])
            print(said(f"{path}: {report}"))
            status = max(status, int(not report.ok or (strict and report.verdict == "warn")))
            if drawing := drawings.get(path):
                _use_no_screen()
                try:
                    axes = storm.pl.check(
                        sdata, field_um=field_um, table_key=table_key, library_key=library_key, **read
                    )
                except ValueError as error:
                    # The report above gives the reason in full.
                    print(f"storm check: no figure {drawing}: {one_line(error)}", file=sys.stderr)
                else:
                    _save(axes[0].figure, drawing)
        except Exception as error:
            if len(paths) == 1:
                raise
            print(f"storm check: {path}: error: {one_line(error)}", file=sys.stderr)
            status = 2
    return status


def _drawings(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """File that each section is drawn to."""
    files = {path: folder / f"{path.resolve().stem}.png" for path in paths}
    for path, file in files.items():
        if others := [str(other) for other in paths if files[other] == file and other != path]:
            msg = f"{path} and {', '.join(others)} would both be drawn to {file}; check them apart, or rename one"
            raise ValueError(msg)
        check_parent(file, option="--figures", shown=folder)
        if file.exists() and not _is_drawing(file):
            msg = f"{file} exists and was not drawn by storm check; give another folder for --figures, or remove it"
            raise FileExistsError(msg)
    return files


def _is_drawing(file: Path) -> bool:
    """Whether a picture was drawn by an earlier ``storm check``, which this one may replace."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return picture.info.get("Software") == _SOFTWARE
    except OSError:
        return False


def _use_no_screen() -> None:
    import matplotlib as mpl

    mpl.use("Agg")


def _save(figure: Figure, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=150, format="png", metadata={"Software": _SOFTWARE})
    plt.close(figure)
