"""One store of a study that is embedded jointly. This runs in the command's own process or in a worker's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from storm._bridge.keys import Keys
from storm._bridge.study import Study
from storm._files import flush
from storm._inference.joint_steps import Last, Part, finish, one_by_one
from storm._inference.record import warn_nan
from storm._inference.study_embedding import open_embedding
from storm.cli._commands import Done, load_model, store_embedding
from storm.cli._stores import Section, open_section
from storm.data.journal import Journal


def run_step(
    *,
    folder: Path,
    step: Callable[..., Any],
    each: Sequence[Sequence[Any]],
    shared: Mapping[str, Any],
    told: Mapping[str, Any],
    **options: Any,
) -> Done:
    """Run a step of the joint embedding in all sections of a store.

    Parameters
    ----------
    folder
        Where the store's sections leave what is large.
    step, each, shared
        A function of :mod:`storm._inference.joint_steps`, and its arguments: entries of ``each`` are those of the
        store's sections.
    told
        What the command was told, which is stored with the results, and not needed here.
    **options
        Of the command; see :func:`_open`.

    Returns
    -------
    Done
        Its value is a list, with what the step returned for each section.
    """
    _, _, parts = _open(folder, **options)
    values = one_by_one(parts)(step, *each, **shared)
    if folder.exists():
        flush(folder)  # the next step may run on another machine
    return Done(0, "", values)


def store_results(*, folder: Path, lasts: Sequence[Last], told: Mapping[str, Any], **options: Any) -> Done:
    """Put the embedding of a store's sections together, and store it."""
    section, study, parts = _open(folder, **options)
    key = options["key_added"]
    for part, last in zip(parts, lasts, strict=True):
        result = finish(part, last)
        warn_nan(result.vector, result.unknown, name=key, section="" if len(parts) == 1 else part.section.name)
        obsm = result.obsm(key, per_modality=options["per_modality"])
        study.keep(part.section, obsm=obsm, uns={key: result.facts}, layouts=result.layouts(key))
    study.write()
    return store_embedding(
        section, told, table_key=options["table_key"], per_modality=options["per_modality"], key_added=key
    )


def _open(
    folder: Path,
    *,
    path: Path,
    out: Path | None,
    shown: str,
    model: str,
    tile_encoder: Path | None,
    table_key: str | None,
    shapes_key: str | None,
    coordinate_system: str | None,
    um_per_px: float | None,
    layer: str | None,
    **options: Any,
) -> tuple[Section, Study, list[Part]]:
    """Open a store; ``shown`` is its path as the user gave it, by which errors call its sections."""
    section = open_section(path, out, table_key=table_key)
    keys = Keys(
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    study, plan = open_embedding(section.sdata, keys, load_model(model, tile_encoder), label=shown, **options)
    return section, study, [Part(section=one, plan=plan, journal=one.journal(Journal(folder))) for one in study]
