"""``storm benchmark domains``: methods compared on annotated sections."""

from __future__ import annotations

import os
from pathlib import Path

import storm
from storm._files import replacing
from storm.cli._stores import check_new_path, read_store

#: What is printed of the table; the file has all of it.
_SHOWN = ("method", "n_domains", "sections", "ari", "ari_sd", "nmi", "chaos", "pas", "asw", "seconds")


def domains(
    *,
    paths: list[Path],
    out: Path,
    truth: str,
    methods: list[str] | None,
    use_rep: list[str],
    n_domains: list[int] | None,
    n_seeds: int,
    unlabelled: list[str],
    library_key: str | None,
    model: str,
    tile_encoder: Path | None,
    image_key: str | None,
    table_key: str | None,
    shapes_key: str | None,
    coordinate_system: str | None,
    um_per_px: float | None,
    layer: str | None,
    batch_size: int | None,
    device: str,
) -> None:
    """``storm benchmark domains``.

    Raises
    ------
    FileExistsError
        If ``out`` exists.
    ValueError
        If two stores have the same name, and whatever :func:`storm.benchmark.domains` raises.
    """
    check_new_path(out)
    names = [path.resolve().stem for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"several stores are called {', '.join(map(repr, twice))}, the name of a section in the table; rename one"
        raise ValueError(msg)
    table = storm.benchmark.domains(
        {name: read_store(path) for name, path in zip(names, paths, strict=True)},
        methods,
        truth=truth,
        embeddings={key: key for key in use_rep},
        n_domains=n_domains or "classes",
        seeds=range(n_seeds),
        unlabelled=unlabelled,
        model=storm.load_model(model, tile_encoder=tile_encoder),
        library_key=library_key,
        image_key=image_key,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
        device=device,
        batch_size=batch_size,
    )
    target = Path(os.path.abspath(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as scratch:
        if target.suffix == ".json":
            table.to_json(scratch, orient="records", indent=1)
        else:
            table.to_csv(scratch, index=False)
        check_new_path(out)
    summary = storm.benchmark.summary(table)
    print(summary[[name for name in _SHOWN if name in summary]].round(3).to_string(index=False))
    print(f"{len(table)} rows: {out}")
