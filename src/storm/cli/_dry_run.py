"""``--dry-run``: what a command would do, in which time and memory; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from storm._bridge import select_table
from storm._bridge.image import levels_of
from storm._settings import settings
from storm.cli import _commands, _many
from storm.cli._foreign import refuse
from storm.cli._say import one_line, quiet_neighbours
from storm.cli._section import Job, Outcome
from storm.cli._skip import split
from storm.cli._stores import read_store
from storm.pp._estimate import duration

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Rows that are computed to measure the time.
_ROWS, _ROWS_CLUSTERED = 128, 5000


@dataclass(frozen=True)
class _Look:
    """What is found in a section: rows of its table (0 without one), genes, and pixels of its image."""

    job: Job
    n: int
    genes: int
    image: str


def dry_run(
    command: str, paths: list[Path], options: dict[str, Any], *, workers: int | None, skip: bool, study: bool = False
) -> int:
    """Check what can be checked, look into all sections, measure one of them, and print the plan.

    Returns
    -------
    int
        Exit status: 0, or 2 if a section cannot be opened, or must not be computed.
    """
    refuse(paths)
    jobs = _many.plan(command, paths, options, old=skip)
    others: list[Outcome] = []
    if skip:
        names = sorted(str(path.resolve()) for path in paths) if study else ()
        waiting, others = split(jobs, study=names)
        jobs = jobs if study and waiting else waiting
    looks, broken = [], []
    for job in jobs:
        try:
            looks.append(_look(job))
        except (OSError, ValueError, KeyError) as error:
            broken.append(one_line(error))
    width = max((len(look.job.shown) for look in looks), default=0)
    for look in looks:
        rows = f"{look.n:>9,} rows × {look.genes:,} genes" if look.n else "   no table"
        print(f"{look.job.shown.ljust(width)}  {rows}{look.image}")
    for one in others:
        print(f"{one.section}: {one.result or one.error}")
    for text in broken:
        print(f"{text} (cannot be opened)")
    done = sum(one.skipped for one in others)
    total = sum(look.n for look in looks)
    print(f"{len(looks)} of {len(paths)} sections to do, {total:,} rows; {done} skipped; {len(broken)} broken")
    if looks:
        _estimate(command, looks, workers=1 if study and command == "domains" else workers)
    print("nothing was stored")
    return 2 if broken or any(one.error for one in others) else 0


def _look(job: Job) -> _Look:
    sdata = read_store(job.options["path"])
    n, genes = 0, 0
    if sdata.tables or job.options.get("table_key") is not None:
        _, table = select_table(sdata, job.options.get("table_key"))
        n, genes = table.shape
    sizes = [levels_of(image)[0].shape[-2:] for image in sdata.images.values()]
    image = "".join(f", image of {x:,} × {y:,} pixels" for y, x in sizes)
    return _Look(job, n, genes, image)


def _estimate(command: str, looks: list[_Look], *, workers: int | None) -> None:
    """Measure the section of median size on some rows, and say what all of them may take."""
    from storm.cli._machine import visible_gpus, workers_for

    looks = sorted(looks, key=lambda look: look.n)
    look = looks[len(looks) // 2]
    if not look.n:
        print("time: not measured, because the tiles of an image without a table are laid when it is computed")
        return
    device = look.job.options.get("device")
    count = workers_for(len(looks), device, wanted=workers)
    n = min(_ROWS_CLUSTERED if command == "domains" else _ROWS, look.n)
    try:
        seconds = _measured(look, n)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"time: cannot be measured on {look.job.shown}: {one_line(error)}")
        return
    per_row = seconds / n
    at_once = count if visible_gpus(device) else 1  # processes on one machine share its cores
    whole = per_row * sum(one.n for one in looks) / at_once
    shared = f"{count} workers" if count > 1 else "one worker"
    if at_once < count:
        shared += ", which share the cores"
    print(
        f"time: about {duration(whole)} with {shared}; {duration(seconds)} measured on {n:,} rows of {look.job.shown}, "
        "in proportion to rows, without the start of the workers: right to a factor of two or three"
    )
    used = psutil.Process().memory_info().rss / 2**30
    print(
        f"memory: {used:.1f} GiB measured in this process, which has the programs, the model and {look.job.shown}; "
        f"{'each' if count > 1 else 'it'} takes that, and more for larger sections: {looks[-1].job.shown} has "
        f"{looks[-1].n:,} rows; {psutil.virtual_memory().available / 2**30:.1f} GiB are free"
    )


def _measured(look: _Look, n: int) -> float:
    """Seconds that the command takes for some rows from the middle of a section, once it is warm."""
    options = {name: value for name, value in look.job.options.items() if name not in ("path", "out", "table_out")}
    command = str(look.job.command)
    if command == "encode":
        options["recompute"] = True
    if command == "predict":
        options["store"] = None
    sdata = read_store(look.job.options["path"])
    taken = []
    settings.verbosity = 0
    with quiet_neighbours(lambda text: None):
        for _ in range(2):
            part = _part(sdata, options.get("table_key"), n)
            start = time.perf_counter()
            _commands.compute(command, part, **options)
            taken.append(time.perf_counter() - start)
    return min(taken)


def _part(sdata: SpatialData, table_key: str | None, n: int) -> SpatialData:
    """A section with ``n`` neighbouring rows of its table, in memory: nothing of it is stored."""
    from spatialdata import SpatialData

    key, table = select_table(sdata, table_key)
    first = (table.n_obs - n) // 2
    rows = np.arange(first, first + n)
    return SpatialData(
        images=dict(sdata.images), shapes=dict(sdata.shapes), tables={str(key): table[rows].copy()}, attrs=sdata.attrs
    )
