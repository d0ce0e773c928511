"""Commands that work on a stored section: read, call the function of the same name, store what is new."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import storm
from storm import _keys
from storm._bridge import persist, select_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spatialdata import SpatialData

    from storm import ExpressionHead, StormModel
    from storm.encoders import EncoderInfo


@dataclass(frozen=True)
class Done:
    """What a command did to a section.

    Attributes
    ----------
    n
        Rows of the table that holds the result.
    said
        One line that says what there is now, and where.
    """

    n: int
    said: str


def encode(
    *, path: Path, out: Path | None, key_added: str | None, encoder: str, weights: Path | None, **options: Any
) -> Done:
    """``storm encode``."""
    _check_out(out)
    loaded = _load_encoder(encoder, weights)
    key_added = key_added or _keys.tiles_key(loaded.name)
    sdata = read_store(path)
    before = _elements(sdata)
    storm.tl.encode_tiles(sdata, loaded, key_added=key_added, **options)
    where = store(sdata, out, before, table_key=options["table_key"], obsm=[key_added], uns=[key_added])
    key, table = select_table(sdata, options["table_key"])
    values = table.obsm[key_added]
    known = int(np.isfinite(values).all(axis=1).sum())
    said = f"{known} of {table.n_obs} tiles encoded in {values.shape[1]} dimensions: {where}, {key}.obsm[{key_added!r}]"
    return Done(table.n_obs, said)


def embed(
    *, path: Path, out: Path | None, key_added: str, model: str, tile_encoder: Path | None, **options: Any
) -> Done:
    """``storm embed``."""
    _check_out(out)
    loaded = _load_model(model, tile_encoder)
    sdata = read_store(path)
    before = _elements(sdata)
    storm.tl.embed(sdata, model=loaded, key_added=key_added, **options)
    where = store(sdata, out, before, table_key=options["table_key"], obsm=[key_added], uns=[key_added])
    key, table = select_table(sdata, options["table_key"])
    values = table.obsm[key_added]
    known = int(np.isfinite(values).all(axis=1).sum())
    said = f"{known} of {table.n_obs} rows embedded in {values.shape[1]} dimensions: {where}, {key}.obsm[{key_added!r}]"
    return Done(table.n_obs, said)


def domains(*, path: Path, out: Path | None, n_domains: int | str, key_added: str, **options: Any) -> Done:
    """``storm domains``."""
    _check_out(out)
    sdata = read_store(path)
    before = _elements(sdata)
    storm.tl.domains(sdata, n_domains, key_added=key_added, **options)
    where = store(sdata, out, before, table_key=options["table_key"], obs=[key_added], uns=[key_added])
    key, table = select_table(sdata, options["table_key"])
    sizes = table.obs[key_added].value_counts(sort=False)
    said = ", ".join(f"{name}: {count}" for name, count in sizes.items())
    return Done(table.n_obs, f"{len(sizes)} domains ({said}): {where}, {key}.obs[{key_added!r}]")


def predict(
    *,
    path: Path,
    out: Path | None,
    genes: Sequence[str] | None,
    head: Path | None,
    key_added: str,
    model: str,
    tile_encoder: Path | None,
    **options: Any,
) -> Done:
    """``storm predict``."""
    _check_out(out)
    loaded = _load_model(model, tile_encoder)
    names = None if genes is None else [name for item in genes for name in item.split(",") if name]
    fitted = None if head is None else _load_head(head)
    sdata = read_store(path)
    before = _elements(sdata)
    storm.tl.predict_expression(sdata, names, model=loaded, head=fitted, key_added=key_added, **options)
    made = [name for name, table in sdata.tables.items() if before["tables"].get(name) is not table]
    slots = {} if made else {"layers": [key_added], "var": [_keys.RELIABILITY], "uns": [key_added]}
    where = store(sdata, out, before, table_key=options["table_key"], **slots)
    if made:
        table = sdata.tables[made[-1]]
        return Done(table.n_obs, f"{table.n_vars} genes predicted: {where}, table {made[-1]!r}")
    key, table = select_table(sdata, options["table_key"])
    known = int(np.isfinite(table.layers[key_added]).any(axis=0).sum())
    return Done(table.n_obs, f"{known} of {table.n_vars} genes predicted: {where}, {key}.layers[{key_added!r}]")


# One of each is held, so that a process that does many sections loads it once.


@lru_cache(maxsize=1)
def _load_model(model: str, tile_encoder: Path | None) -> StormModel:
    return storm.load_model(model, tile_encoder=tile_encoder)


@lru_cache(maxsize=1)
def _load_encoder(encoder: str, weights: Path | None) -> EncoderInfo:
    return storm.encoders.load_encoder(encoder, weights=weights)


@lru_cache(maxsize=1)
def _load_head(head: Path) -> ExpressionHead:
    return storm.ExpressionHead.load(head)


def forget() -> None:
    """Let go of what is held: another run may find other weights under the same name."""
    for held in (_load_model, _load_encoder, _load_head):
        held.cache_clear()


def models() -> None:
    """``storm models``."""
    from storm._loading import list_models

    names = list_models()
    if not names:
        msg = "no model is packaged with this installation; install storm-spatial again"
        raise FileNotFoundError(msg)
    for name in names:
        model = storm.load_model(name)
        parameters = sum(p.numel() for p in model.network.parameters()) / 1e6
        virtual = 0 if model.head is None else len(model.head.genes)
        print(name)
        print(
            f"  network      {parameters:.1f} M parameters, {model.config.depth} blocks of width {model.config.width}"
        )
        print(f"  H&E          {model.tile_encoder.name}, fields of {model.tile_encoder.field_um:g} µm")
        print(
            f"  expression   {model.expression.name}, reads {len(model.expression.vocabulary)} genes; "
            f"predicts {virtual} from H&E"
        )
        print(f"  sha256       {model.sha256}")
        for key, value in model.card.items():
            if isinstance(value, str | int | float):
                print(f"  {key:<12} {value}")
    _print_encoders()


def _print_encoders() -> None:
    """The tile encoders in as many columns as a terminal has."""
    table = storm.encoders.list()
    told = table[["dim", "tile_px", "field_um", "native_um_per_px", "pooling", "gflop", "licence"]].copy()
    told.insert(5, "parameters", [f"{n / 1e6:.1f} M" if known else "" for n, known in _known(table["n_parameters"])])
    told[""] = ["gated" if gated else "" for gated in table["gated"]]
    told.index.name = None
    print("\ntile encoders; any model of timm besides, as timm:<model> (storm brings the weights of none but its own)")
    print(told.rename(columns={"native_um_per_px": "µm/px"}).to_string(na_rep="", float_format="{:g}".format))


def _known(values: Any) -> Any:
    return zip(values, values.notna(), strict=True)


def read_store(path: Path) -> SpatialData:
    """Open a SpatialData store.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If it is no SpatialData store.
    """
    import spatialdata
    import zarr

    if not path.exists():
        msg = f"{path} does not exist"
        raise FileNotFoundError(msg)
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (OSError, ValueError, zarr.errors.BaseZarrError) as error:
        msg = f"{path} is no zarr store ({type(error).__name__})"
        raise ValueError(msg) from error
    if "spatialdata_attrs" not in attributes:
        msg = f"{path} is a zarr store, but not of a SpatialData; write one with sdata.write(path)"
        raise ValueError(msg)
    return spatialdata.read_zarr(path)


def store(
    sdata: SpatialData,
    out: Path | None,
    before: dict[str, dict[str, Any]],
    *,
    table_key: str | None,
    **slots: list[str],
) -> Path:
    """Store what is new: into the object's own store, or all of it into a new one."""
    if out is not None:
        write_store(sdata, out)
        return out
    after = _elements(sdata)
    new = {
        kind: [name for name, element in after[kind].items() if before[kind].get(name) is not element] for kind in after
    }
    # What was written into a table that is new itself is stored with it.
    in_place = {} if new["tables"] else slots
    return persist(sdata, table_key if in_place else None, **in_place, **new)


def write_store(sdata: SpatialData, out: Path) -> None:
    """Write a whole store under a name of its own, and give it its name when it is complete."""
    import shutil

    scratch = out.with_name(out.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        sdata.write(scratch)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _check_out(out: Path | None) -> None:
    if out is not None and out.exists():
        msg = f"--out {out} exists; give another name, or remove it"
        raise FileExistsError(msg)


def _elements(sdata: SpatialData) -> dict[str, dict[str, Any]]:
    return {"tables": dict(sdata.tables), "shapes": dict(sdata.shapes)}
