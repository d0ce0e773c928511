"""``storm.pp.check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from storm import _keys
from storm._bridge.keys import Keys
from storm._bridge.scale import check_um_per_px
from storm._bridge.select import select_table
from storm._bridge.standalone import standalone
from storm._bridge.study import given_once
from storm._bridge.write import check_writable, write_results
from storm._checks import check_positive
from storm._inference.device import Compute
from storm._loading import StormModel, load_model
from storm._progress import over_sections
from storm.data.genes import as_symbols
from storm.data.windows import Windows, make_windows
from storm.pp._compare import Checked, comparison_rows, section_row
from storm.pp._counts import bins_row, counts_rows, windows_row
from storm.pp._estimate import estimate_rows
from storm.pp._image import chunks_row, kind_row, patch_row
from storm.pp._orientation import orientation_rows
from storm.pp._places import diameter_of, image_rows, place_rows
from storm.pp._reach import reach_rows
from storm.pp._reading import Reading, read_section, text_of
from storm.pp._report import CheckReport, Row, StudyReport

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Order of the rows: where things are first.
_ORDER = (
    "places", "in_tissue", "scale", "pitch", "bins", "shapes", "image", "kind", "inside", "tissue", "orientation",
    "shift", "patch", "chunks", "counts", "genes", "windows", "reach", "time", "memory",
)  # fmt: skip


def check(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    *,
    model: str | StormModel = "storm-mini",
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    field_um: float | None = None,
    device: str | Sequence[str] = "auto",
    estimate: bool = True,
    store: bool = False,
) -> CheckReport | StudyReport:
    """Check a section before anything long is computed: scale, orientation, image, genes, counts, time.

    What is wrong with the section is a row of the report, whose explanation tells what to do; only mistakes of the call
    raise. Each row has a verdict: ``"ok"``; ``"warn"`` (look at it); ``"fail"`` (results would be wrong, or there would
    be none); ``"info"``. The page *Checking a section* explains what each row means and how sure it is.

    Possible rows: ``places`` (rows with a geometry), ``in_tissue`` (spots outside the tissue), ``scale`` (µm per pixel
    and its source), ``pitch`` (whether the spots lie as far apart as the platform's), ``bins`` (too small), ``shapes``
    (which of several), ``image`` (cannot be read), ``kind`` (whether it looks like H&E), ``inside`` and ``tissue``
    (centres on the image, on tissue),
    ``orientation`` (whether the section lies the other way round), ``shift``, ``patch`` (its size and up-sampling),
    ``chunks``, ``counts``, ``genes``, ``windows`` (missing neighbours), ``reach`` (how far spots are alike, and whether
    the model's tokens are used: what the read-out ``"adaptive"`` chooses), ``time`` and ``memory`` (of
    :func:`storm.tl.embed` on this machine).

    Of several sections there is one report: a row for each section, which names what is wrong with it, then rows about
    what differs between them: ``platforms`` (lattices and pitches), ``scales`` (known for some), ``genes`` (in common,
    and the share of the counts that they hold), ``images`` (missing for some, or of other resolutions), ``stains``
    (colours of tissue), ``time`` and ``memory`` of all. ``report.sections`` holds the reports of the sections.

    Parameters
    ----------
    data
        A SpatialData, an AnnData with ``obsm["spatial"]``, or a list of these.
    model
        The model that is to be run: it decides about genes, field, patches and time.
    image_key, table_key, library_key, shapes_key, coordinate_system, um_per_px, layer
        What to read, and the scale, as in :func:`storm.tl.embed`.
    field_um
        Edge of the H&E field in µm; the model's own by default.
    device
        Where the model would run, for the time: as in :func:`storm.tl.embed`.
    estimate
        Whether to measure a few spots for the time.
    store
        Also store the report as ``uns["storm"]["check"]``. By default nothing is written.

    Returns
    -------
    CheckReport or StudyReport
        Shown as text or as a table; ``report.table`` is a data frame, ``report.ok`` whether nothing fails.

    Raises
    ------
    KeyError
        If an element, layer or coordinate system does not exist.
    ValueError
        If there are several images or tables and none is chosen, a number is not positive, there is no such device, or
        the report is to be stored and there is no table, or one that is a view.
    TypeError
        If ``data`` is something else.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> report = storm.pp.check(sdata, estimate=False)
    >>> report.ok
    True
    """
    tables = []
    for one in given_once(data) if store else ():
        key, table = select_table(one, table_key)
        check_writable(table, key)
        tables.append(table)
    loaded = load_model(model)
    field_um = loaded.tile_encoder.field_um if field_um is None else field_um
    check_positive(field_um, name="field_um", unit="µm")
    if um_per_px is not None:
        check_um_per_px(um_per_px)
    compute = Compute.of(device)
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px,
        layer=layer,
    )  # fmt: skip
    sections = standalone(data, keys, library_key=library_key, image_key=image_key)
    run = partial(_checked, model=loaded, field_um=float(field_um), compute=compute if estimate else None)
    checked = [run(section.make(), section.keys, name=section.name) for section in over_sections(sections)]
    report: CheckReport = checked[0].report
    if len(checked) > 1:
        rows = [*map(section_row, checked), *comparison_rows(checked)]
        report = StudyReport(tuple(rows), {section.name: section.report for section in checked})
    for table in tables:
        write_results(table, uns={_keys.CHECK: report.summary()})
    return report


def _checked(
    data: SpatialData | AnnData, keys: Keys, *, name: str, model: StormModel, field_um: float, compute: Compute | None
) -> Checked:
    """Check one section, and keep what is compared between sections."""
    reading = read_section(data, keys, field_um=field_um)
    rows = list(reading.problems)
    if reading.content is not None and reading.spots.placed.any():
        rows += _rows(reading, model, field_um=field_um, compute=compute)
    elif reading.content is not None:
        rows.append(Row("places", f"none of {len(reading.spots):,} rows has a place", "fail", "nothing can be checked"))
    report = CheckReport(tuple(sorted(rows, key=lambda row: _ORDER.index(row.name))))
    if reading.content is None or reading.spots.counts is None:
        return Checked(name, report, None, None)
    counts, genes = reading.spots.expression
    known = getattr(model.expression, "vocabulary", None)
    symbols = [str(gene) for gene in (genes if known is None else as_symbols(genes, known))]
    return Checked(name, report, symbols, np.asarray(counts.sum(axis=0), dtype=np.float64).ravel())


def _rows(reading: Reading, model: StormModel, *, field_um: float, compute: Compute | None) -> list[Row]:
    spots = reading.spots
    rows: list[Row] = []
    windows: Windows | None = None
    try:
        windows = make_windows(spots.centres)
    except ValueError as error:
        rows.append(Row("windows", "cannot be made", "fail", text_of(error)))
    rows += place_rows(reading, windows)
    if spots.patches is not None:
        try:
            rows += _image(reading, model, windows, field_um=field_um)
        except (ValueError, OSError, RuntimeError) as error:
            return [*rows, Row("image", "its pixels cannot be read", "fail", text_of(error))]
    if spots.counts is not None:
        rows += counts_rows(spots, model)
    if windows is not None:
        reach = reach_rows(spots, windows, model)
        rows += [*bins_row(spots, windows), windows_row(spots, windows), *reach]
        if compute is not None:
            used = all(row.facts.get("st_tokens", True) for row in reach)
            rows += estimate_rows(spots, windows, model, compute, field_um=field_um, st_tokens=used)
    return rows


def _image(reading: Reading, model: StormModel, windows: Windows | None, *, field_um: float) -> list[Row]:
    spots = reading.spots
    spots.reader.check_field(field_um)
    tile_px = model.tile_px
    rows = image_rows(spots, windows, diameter_um=diameter_of(reading) or field_um)
    if windows is not None and not reading.tiled:
        rows += orientation_rows(spots, windows)
    placed = spots.centres[spots.placed]
    inside = placed[spots.reader.inside(placed)]
    if len(inside):
        rows.append(kind_row(spots.reader, inside, field_um=field_um))
    rows.append(patch_row(spots.reader, field_um=field_um, tile_px=tile_px))
    rows.append(chunks_row(spots.reader, inside, field_um=field_um, tile_px=tile_px, warned=list(reading.warned)))
    return rows
