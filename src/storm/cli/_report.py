"""``storm report``: what is known of sections as pages to hand on."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import storm
from storm.cli._say import one_line
from storm.cli._stores import check_parent, read_object

#: Folder of the reports of several sections.
_FOLDER = Path("storm-report")
_INDEX = "index.html"


def report(
    *,
    paths: list[Path],
    out: Path | None,
    title: str | None,
    overwrite: bool,
    model: str,
    **options: Any,
) -> int:
    """Write a report for each store, and an index where a folder is written.

    Returns
    -------
    int
        Exit status: 0; 2 if a section has no report, which the index names.

    Raises
    ------
    ValueError
        If one file is to hold several reports, or two stores have the same name.
    FileExistsError
        If a file exists and is not to be replaced.
    """
    _use_no_screen()
    single = len(paths) == 1 and (out is None or out.suffix == ".html")
    if out is not None and out.suffix == ".html" and not single:
        msg = f"--out {out} is one file, and there are {len(paths)} sections; give the name of a folder"
        raise ValueError(msg)
    files = _files(paths, out, single=single)
    for file in files.values():
        check_parent(file, option="--out", shown=out or file)
        if file.exists() and not overwrite:
            msg = f"{file} exists; give another --out, or --overwrite"
            raise FileExistsError(msg)
    loaded = storm.load_model(model)
    options |= {"model": loaded, "overwrite": overwrite}
    if single:
        (path,), (file,) = paths, files.values()
        storm.write_report(read_object(path), file, title=title or _name(path), source=path, **options)
        print(file)
        return 0
    cards = []
    for number, (path, file) in enumerate(files.items(), start=1):
        name = _name(path)
        try:
            card = storm.write_report(read_object(path), file, title=name, source=path, **options)
            print(f"[{number}/{len(files)}] {path}: {card.verdict}: {file}")
        except Exception as error:  # noqa: BLE001  a bad section does not stop the others
            print(f"storm report: {path}: error: {one_line(error)}", file=sys.stderr)
            card = storm.ReportCard(name=name, error=one_line(error))
        cards.append(card)
    index = next(iter(files.values())).with_name(_INDEX)
    storm.write_report_index(cards, index, title=title or f"{len(cards)} sections")
    print(index)
    return 2 if any(card.error for card in cards) else 0


def _files(paths: list[Path], out: Path | None, *, single: bool) -> dict[Path, Path]:
    """File of each store's report."""
    if single:
        return {paths[0]: out or Path(f"{_name(paths[0])}.html")}
    folder = out or _FOLDER
    files = {path: folder / f"{_name(path)}.html" for path in paths}
    names = [file.name for file in files.values()]
    if len(files) < len(paths) or len(set(names)) < len(names) or _INDEX in names:
        twice = sorted({name for name in names if names.count(name) > 1} | {*names} & {_INDEX}) or "the same store"
        msg = f"the reports of several stores would have one name, {twice}; rename a store, or report them apart"
        raise ValueError(msg)
    return files


def _name(path: Path) -> str:
    return Path(os.path.abspath(path)).stem


def _use_no_screen() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
