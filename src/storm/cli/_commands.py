"""Commands that work on a stored section: read, call the function of the same name, store what is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np

import storm
from storm import _keys
from storm._bridge import select_table
from storm.cli._done import INPUTS, embedding_of, settings_of, sign, sign_table
from storm.cli._inputs import marks_of
from storm.cli._stores import Section, check_new_path, open_section, read_store, store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spatialdata import SpatialData

    from storm import ExpressionHead, StormModel
    from storm.encoders import EncoderInfo

#: Returns what a command was told.
Told = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Done:
    """What a command did to a section.

    Attributes
    ----------
    n
        Number of rows of the table that holds the result.
    message
        One line: the result, and where it is.
    value
        What another function works on.
    """

    n: int
    message: str
    value: Any = None


def _with_settings(command: Callable[..., Done]) -> Callable[..., Done]:
    """A command that knows all that it was told, as ``told``, to store it beside its result."""

    @wraps(command)
    def run(**options: Any) -> Done:
        # Marked before anything is computed, and by which model it was is known afterwards, when it was fetched.
        marks = marks_of(command.__name__, options)
        return command(told=lambda: settings_of(command.__name__, options) | {INPUTS: marks}, **options)

    return run


@_with_settings
def encode(
    *,
    path: Path,
    out: Path | None,
    encoder: str,
    weights: Path | None,
    table_key: str | None,
    key_added: str | None,
    told: Told,
    **options: Any,
) -> Done:
    """``storm encode``."""
    section = open_section(path, out, table_key=table_key)
    key_added = key_added or _keys.tiles_key(_load_encoder(encoder, weights).name)
    compute(
        "encode", section.sdata, encoder=encoder, weights=weights, table_key=table_key, key_added=key_added, **options
    )
    key, table = select_table(section.sdata, table_key)
    sign(table.uns, key_added, told())
    written = store(section, table_key=table_key, obsm=[key_added], uns=[key_added])
    known, dim = _known_rows(table.obsm[key_added])
    message = f"{known} of {table.n_obs} tiles encoded in {dim} dimensions: {written}, {key}.obsm[{key_added!r}]"
    return Done(table.n_obs, message)


@_with_settings
def embed(
    *,
    path: Path,
    out: Path | None,
    table_key: str | None,
    per_modality: bool,
    key_added: str,
    told: Told,
    **options: Any,
) -> Done:
    """``storm embed``."""
    section = open_section(path, out, table_key=table_key)
    compute("embed", section.sdata, table_key=table_key, per_modality=per_modality, key_added=key_added, **options)
    return store_embedding(section, told(), table_key=table_key, per_modality=per_modality, key_added=key_added)


def store_embedding(
    section: Section, told: Mapping[str, Any], *, table_key: str | None, per_modality: bool, key_added: str
) -> Done:
    """Store an embedding that has been computed, with what the command was told."""
    key, table = select_table(section.sdata, table_key)
    sign(table.uns, key_added, told)
    parts = [name for part in _keys.MODALITY_ENDINGS if (name := f"{key_added}{part}") in table.obsm and per_modality]
    written = store(section, table_key=table_key, obsm=[key_added, *parts], uns=[key_added])
    known, dim = _known_rows(table.obsm[key_added])
    message = f"{known} of {table.n_obs} rows embedded in {dim} dimensions: {written}, {key}.obsm[{key_added!r}]"
    return Done(table.n_obs, message)


@_with_settings
def domains(*, path: Path, out: Path | None, table_key: str | None, key_added: str, told: Told, **options: Any) -> Done:
    """``storm domains``."""
    section = open_section(path, out, table_key=table_key)
    compute("domains", section.sdata, table_key=table_key, key_added=key_added, **options)
    made_from = embedding_of(section.sdata.tables, options["use_rep"])
    return store_domains(section, {**told(), "from": made_from}, table_key=table_key, key_added=key_added)


def store_domains(section: Section, told: Mapping[str, Any], *, table_key: str | None, key_added: str) -> Done:
    """Store domains that have been found, with what the command was told."""
    sign(select_table(section.sdata, table_key)[1].uns, key_added, told)
    written = store(section, table_key=table_key, obs=[key_added], uns=[key_added], colours=[key_added])
    key, table = select_table(section.sdata, table_key)
    sizes = table.obs[key_added].value_counts(sort=False)
    listed = ", ".join(f"{name}: {count}" for name, count in sizes.items())
    return Done(table.n_obs, f"{len(sizes)} domains ({listed}): {written}, {key}.obs[{key_added!r}]")


@_with_settings
def predict(
    *,
    path: Path,
    out: Path | None,
    table_out: Path | None,
    table_key: str | None,
    intervals: bool,
    key_added: str,
    told: Told,
    **options: Any,
) -> Done:
    """``storm predict``."""
    if table_out is None:
        section = open_section(path, out, table_key=table_key)
    elif out is not None:
        msg = f"--table-out {table_out} takes all that is new, and --out {out} would be a copy; leave one of them out"
        raise ValueError(msg)
    else:
        check_new_path(table_out, inside=path, option="--table-out")
        section = Section(read_store(path), path, None)
        table_out.absolute().parent.mkdir(parents=True, exist_ok=True)
    how = {"table_key": table_key, "intervals": intervals, "key_added": key_added, **options}
    compute("predict", section.sdata, store=table_out, **how)
    if table_out is not None:
        sign_table(table_out, told())
        n_obs, n_vars = anndata.experimental.read_lazy(table_out).shape
        return Done(n_obs, f"{n_vars} genes predicted: {table_out}, an AnnData of its own")
    if made := section.new_tables():
        sign(section.sdata.tables[made[-1]].uns, key_added, told())
        written = store(section, table_key=table_key)
        table = section.sdata.tables[made[-1]]
        return Done(table.n_obs, f"{table.n_vars} genes predicted: {written}, table {made[-1]!r}")
    sign(select_table(section.sdata, table_key)[1].uns, key_added, told())
    # Among them is the held-out correlation of each gene.
    columns = section.new_var(table_key)
    layers = [key_added, *(f"{key_added}{ending}" for ending in _keys.LIMIT_ENDINGS if intervals)]
    tiles = [_keys.unusual(key_added)]
    written = store(section, table_key=table_key, obs=tiles, layers=layers, var=columns, uns=[key_added])
    key, table = select_table(section.sdata, table_key)
    known = int(np.isfinite(table.layers[key_added]).any(axis=0).sum())
    message = f"{known} of {table.n_vars} genes predicted: {written}, {key}.layers[{key_added!r}]"
    return Done(table.n_obs, message)


def compute(command: str, sdata: SpatialData, **options: Any) -> None:
    """Call the function of a command, with what its options name."""
    if command == "encode":
        encoder = _load_encoder(options.pop("encoder"), options.pop("weights"))
        storm.tl.encode_tiles(sdata, encoder, **options)
        return
    if command == "domains":
        storm.tl.domains(sdata, **options)
        return
    options["model"] = load_model(options["model"], options.pop("tile_encoder"))
    if command == "embed":
        storm.tl.embed(sdata, **options)
        return
    genes, head = options.pop("genes"), options.pop("head")
    storm.tl.predict_expression(
        sdata,
        None if genes is None else _gene_names(genes),
        head=None if head is None else _load_head(head),
        out=options.pop("store"),
        **options,
    )


def add_slide(
    *,
    path: Path,
    out: None,
    folder: Path,
    model: str,
    tile_encoder: Path | None,
    head: Path | None,
    genes: Sequence[str] | None,
    **options: Any,
) -> Done:
    """One slide of ``storm cohort add``."""
    result = storm.prognosis.add_slides(
        storm.prognosis.Cohort(folder),
        [path],
        model=load_model(model, tile_encoder),
        head=None if head is None else _load_head(head),
        genes=None if genes is None else _gene_names(genes),
        **options,
    ).iloc[0]
    if result["status"] != "done":
        raise ValueError(str(result["status"]).partition(": ")[2])
    return Done(
        int(result["n_tiles"]), f"{result['n_tiles']} tiles of patient {result['patient']}: slide {result.name}"
    )


def _known_rows(values: Any) -> tuple[int, int]:
    """Number of rows without NaN of a matrix (n, d), and d."""
    return int(np.isfinite(values).all(axis=1).sum()), int(values.shape[1])


def _gene_names(items: Sequence[str]) -> list[str]:
    """Genes as they may be given: several words, or one with commas."""
    names = [name.strip() for item in items for name in item.split(",") if name.strip()]
    if not names:
        msg = "--genes names no gene; give for example --genes EPCAM,COL1A1"
        raise ValueError(msg)
    return names


# One of each is kept, so that a process that works on many sections loads it once.


@lru_cache(maxsize=1)
def load_model(model: str, tile_encoder: Path | None) -> StormModel:
    """Load a model, or return the one that was loaded last."""
    return storm.load_model(model, tile_encoder=tile_encoder)


@lru_cache(maxsize=1)
def _load_encoder(encoder: str, weights: Path | None) -> EncoderInfo:
    return storm.encoders.load_encoder(encoder, weights=weights)


@lru_cache(maxsize=1)
def _load_head(head: Path) -> ExpressionHead:
    return storm.ExpressionHead.load(head)


def forget() -> None:
    """Drop the loaded model, encoder and head: another run may find other weights under the same name."""
    for cache in (load_model, _load_encoder, _load_head):
        cache.cache_clear()
