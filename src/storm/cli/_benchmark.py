"""``storm benchmark``: methods compared on annotated or measured sections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import storm
from storm._files import replacing
from storm.cli._stores import check_new_path, read_store

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

#: What is printed of the table; the file has all of it.
_SHOWN = ("method", "n_domains", "sections", "ari", "ari_sd", "nmi", "chaos", "pas", "asw", "seconds")
_SHOWN_EXPRESSION = (
    "method", "encoder", "split", "genes", "sections", "n_genes", "r", "r_sd", "r_pooled", "top_50", "rmse", "seconds",
)  # fmt: skip


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
    table = storm.benchmark.domains(
        _sections(paths),
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
    _write(table, out, shown=_SHOWN)


def expression(
    *,
    paths: list[Path],
    out: Path,
    methods: list[str] | None,
    group_key: str | None,
    groups: list[str] | None,
    splits: str,
    train: list[str],
    test: list[str],
    genes: list[str],
    n_genes: int,
    encoders: list[str] | None,
    predictions: list[str],
    n_seeds: int,
    backbone: str | None,
    epochs: int | None,
    library_key: str | None,
    model: str,
    tile_encoder: Path | None,
    image_key: str | None,
    table_key: str | None,
    shapes_key: str | None,
    coordinate_system: str | None,
    um_per_px: float | None,
    field_um: float | None,
    layer: str | None,
    batch_size: int | None,
    device: str,
) -> None:
    """``storm benchmark expression``.

    Raises
    ------
    FileExistsError
        If ``out`` exists.
    ValueError
        If two stores have the same name, only one side of a split is named, and whatever
        :func:`storm.benchmark.expression` raises.
    """
    check_new_path(out)
    if bool(train) != bool(test):
        msg = "--train and --test belong together: name the sections to train on, and those to judge"
        raise ValueError(msg)
    chosen = all(one in ("train", "test") for one in genes)
    table = storm.benchmark.expression(
        _sections(paths),
        methods,
        group_key=group_key,
        groups=groups,
        splits={"given": (train, test)} if train else splits,
        genes={one: one for one in genes} if chosen else genes,
        n_genes=n_genes,
        encoders=encoders,
        predictions={key: key for key in predictions},
        seeds=range(n_seeds),
        backbone=backbone,
        epochs=epochs,
        model=storm.load_model(model, tile_encoder=tile_encoder),
        library_key=library_key,
        image_key=image_key,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        field_um=field_um,
        layer=layer,
        device=device,
        batch_size=batch_size,
    )
    _write(table, out, shown=_SHOWN_EXPRESSION)


def _sections(paths: list[Path]) -> dict[str, SpatialData]:
    """Stores by their names, which are those of the sections in the table."""
    names = [path.resolve().stem for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"several stores are called {', '.join(map(repr, twice))}, the name of a section in the table; rename one"
        raise ValueError(msg)
    return {name: read_store(path) for name, path in zip(names, paths, strict=True)}


def _write(table: pd.DataFrame, out: Path, *, shown: tuple[str, ...]) -> None:
    """Write a table, and print what it comes to."""
    target = Path(os.path.abspath(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as scratch:
        if target.suffix == ".json":
            table.to_json(scratch, orient="records", indent=1)
        else:
            table.to_csv(scratch, index=False)
        check_new_path(out)
    summary = storm.benchmark.summary(table)
    print(summary[[name for name in shown if name in summary]].round(3).to_string(index=False))
    print(f"{len(table)} rows: {out}")
