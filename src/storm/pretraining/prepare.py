"""Preparation of a run before its first step: genes, expression encoder, statistics, tokens, an untrained model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from storm._loading import StormModel, load_model
from storm._loading.files import write_json
from storm._logging import logger
from storm.data.genes import Vocabulary, match_genes
from storm.data.libraries import Library, shared_library
from storm.data.normalise import CLIP, log_normalise, row_blocks, standardise
from storm.encoders import EncoderInfo, get_encoder
from storm.expression import ExpressionEncoder, NovaeEncoder
from storm.pretraining.config import PretrainConfig, flatten
from storm.pretraining.factors import Panel, choose_genes
from storm.pretraining.shards import Shard, open_shard
from storm.pretraining.start import expression_encoder, tile_encoder_of, untrained
from storm.pretraining.stream import StreamedSection, split_windows

_READY = "prepared.json"
_BLOCK = 8192
#: Fields that may change between the parts of an interrupted run: the numbers stay the same, or nearly.
RUNNING = (
    "accelerator",
    "devices",
    "nodes",
    "precision",
    "checkpoint_steps",
    "keep_checkpoints",
    "sections",
    "out",
    "shards",
    "tile_chunk",
)


def prepare(config: PretrainConfig, shards: Sequence[Shard]) -> tuple[StormModel, list[StreamedSection]]:
    """Prepare a run, or open what an earlier start of the same run prepared.

    Parameters
    ----------
    config
        The run.
    shards
        Packed sections.

    Returns
    -------
    model : StormModel
        Untrained.
    sections : list of StreamedSection
        With their tokens.

    Raises
    ------
    ValueError
        If ``out`` holds another run, there is nothing to learn from in the sections, or held-out ones do not exist.
    """
    out = Path(config.run.out)
    if (out / _READY).is_file():
        return open_prepared(config)
    names = [shard.name for shard in shards]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"several sections are called {twice}; give each a name of its own"
        raise ValueError(msg)
    if unknown := sorted(set(config.data.validation_sections) - set(names)):
        msg = f"validation_sections={unknown} are not among the sections {sorted(names)}"
        raise ValueError(msg)
    learned = [shard for shard in shards if shard.name not in config.data.validation_sections]
    _check_sections(config, learned)
    folders = {name: out / "tokens" / name for name in names}
    splits = {}
    for shard in shards:
        folders[shard.name].mkdir(parents=True, exist_ok=True)
        whole = shard.name in config.data.validation_sections
        train, validate = split_windows(shard, 0.0 if whole else config.data.validation_share)
        splits[shard.name] = (train[:0], train) if whole else (train, validate)
        for what, rows in zip(("train", "validate"), splits[shard.name], strict=True):
            np.save(folders[shard.name] / f"{what}.npy", rows)
    rng = np.random.default_rng(config.run.seed)
    library = _library(config, shards)
    panels = _panels(learned, splits, library, spots=config.st.fit_spots, rng=rng)
    symbols = choose_genes([(panels, config.st.genes or sum(len(p.genes) for p in panels))])
    expression = expression_encoder(config, panels, symbols, library)
    tiles = tile_encoder_of(config) or get_encoder("stain-texture")
    for shard in shards if panels else ():
        _raw_tokens(shard, expression, folders[shard.name])
    dims = {"he": tiles.dim, "st": expression.dim}
    _check_tiles(config, shards, tiles)
    statistics = {}
    for name, dim in dims.items():
        statistics[f"{name}_mean"], statistics[f"{name}_std"] = _statistics(learned, folders, splits, name, dim)
    vocabulary = Vocabulary(tuple(symbols))
    for shard in shards:
        _tokens(
            shard,
            folders[shard.name],
            statistics,
            vocabulary,
            library,
            within=config.objective.standardise == "section",
        )
    seen = {"he": any(shard.has("he") for shard in learned), "st": bool(panels)}
    untrained(config, tiles, expression, vocabulary=vocabulary, statistics=statistics, seen=seen).save(out / "start")
    facts = {"config": config.to_dict(), "library": str(library), "shards": {s.name: str(s.path) for s in shards}}
    write_json(out / _READY, facts)
    logger.info("prepared %d sections, %d genes", len(shards), len(symbols))
    return open_prepared(config, check=False)


def is_prepared(config: PretrainConfig) -> bool:
    """Whether :func:`prepare` has finished."""
    return (Path(config.run.out) / _READY).is_file()


def prepared_sections(config: PretrainConfig) -> list[str]:
    """Names of the sections of a prepared run."""
    return list(json.loads((Path(config.run.out) / _READY).read_text(encoding="utf-8"))["shards"])


def prepared_library(config: PretrainConfig) -> str:
    """Description of the genes by whose counts a prepared run normalises expression."""
    facts = json.loads((Path(config.run.out) / _READY).read_text(encoding="utf-8"))
    return str(facts.get("library", Library()))  # version 0.1.0 had no choice


def open_prepared(config: PretrainConfig, *, check: bool = True) -> tuple[StormModel, list[StreamedSection]]:
    """Open what :func:`prepare` made.

    Parameters
    ----------
    config
        The run.
    check
        Compare the checksums of the packed sections.

    Raises
    ------
    ValueError
        If it was made for another configuration, or a packed section is damaged.
    """
    out = Path(config.run.out)
    facts = json.loads((out / _READY).read_text(encoding="utf-8"))
    # A run that was prepared before a field existed did what the field's default does.
    own, stored = config.flat(), PretrainConfig().flat() | flatten(facts["config"])
    other = sorted(name for name in own if name not in RUNNING and stored[name] != own[name])
    if other:
        differences = ", ".join(f"{name}: {stored[name]!r} there, {own[name]!r} here" for name in other)
        msg = (
            f"{str(out)!r} holds a run of another configuration ({differences}); give another out, or remove the folder"
        )
        raise ValueError(msg)
    sections = [
        StreamedSection(
            open_shard(Path(config.data.shards) / Path(path).name, check=check),
            out / "tokens" / name,
            relative=config.objective.standardise == "section",
            counted=config.network.st_likelihood == "nb",
        )
        for name, path in facts["shards"].items()
    ]
    with torch.random.fork_rng(devices=[]):  # networks are drawn before they are filled
        return replace(load_model(out / "start"), name=out.name), sections


def _check_sections(config: PretrainConfig, learned: Sequence[Shard]) -> None:
    """Raise if the training sections lack what this run trains on."""
    images = [shard for shard in learned if shard.has("he")]
    if not images and not any(shard.has("counts_data") for shard in learned):
        msg = "no section to train on has counts or H&E; give some that have (and a tile_encoder for H&E)"
        raise ValueError(msg)
    both = [shard.name for shard in images if shard.has("counts_data")]
    if config.data.window == 1 and not both:
        msg = "window=1 rebuilds expression from H&E, and no section to train on has both"
        raise ValueError(msg)
    if images:
        return
    for name, value, needs_images in (
        ("train_tiles", "true", config.he.train_tiles),
        ("spatial_encoder", "false", not config.network.spatial_encoder),
    ):
        if needs_images:
            msg = f"{name}={value}, but no section to train on has an image"
            raise ValueError(msg)


def _library(config: PretrainConfig, shards: Sequence[Shard]) -> Library:
    """The genes whose counts add up to the library size, from the totals of all sections."""
    with_counts = [shard for shard in shards if shard.has("counts_data")]
    if config.st.library == "own" or not with_counts:
        return Library()
    try:
        library, shares = shared_library([s.genes for s in with_counts], [s.totals() for s in with_counts])
    except ValueError as error:
        msg = f"{error}; or set library = 'own' to normalise every section by all of its own genes"
        raise ValueError(msg) from error
    if library.genes is not None:
        logger.warning(
            "the sections measure different genes: expression is normalised by the counts of %s, which hold %.0f to "
            "%.0f %% of a section's counts",
            library,
            100 * min(shares),
            100 * max(shares),
        )
    return library


def _panels(
    shards: Sequence[Shard],
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
    library: Library,
    *,
    spots: int,
    rng: np.random.Generator,
) -> list[Panel]:
    """Expression of some training spots of each section."""
    with_counts = [shard for shard in shards if shard.has("counts_data")]
    panels = []
    for shard in with_counts:
        rows = splits[shard.name][0]
        if not len(rows):
            msg = f"section {shard.name!r} has no window to train on; lower validation_share, or leave it out"
            raise ValueError(msg)
        # Every training centre is a spot that no held-out window contains.
        chosen = np.sort(rng.permutation(rows)[: max(2, spots // len(with_counts))])
        expression = log_normalise(shard.counts(chosen), library=library.columns(shard.genes))
        panels.append(Panel(expression, np.array(shard.genes)))
    return panels


def _blocks(n: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))


def _raw_tokens(shard: Shard, encoder: ExpressionEncoder, folder: Path) -> None:
    """Expression embeddings before standardisation, block by block."""
    if not shard.has("counts_data"):
        return
    n = len(shard)
    out = np.lib.format.open_memmap(folder / "st_raw.npy", mode="w+", dtype=np.float32, shape=(n, encoder.dim))
    if isinstance(encoder, NovaeEncoder):
        if encoder.needs_centres:
            msg = f"expression encoder {encoder.name!r} reads neighbours, which may be masked; use context='spot'"
            raise ValueError(msg)
        # Novae standardises within the section: these numbers need all of its counts once.
        statistics = encoder.statistics(shard.counts(np.arange(n)), shard.genes)
        for rows in _blocks(n):
            out[rows] = encoder.encode(shard.counts(rows), shard.genes, statistics=statistics)
    else:
        for rows in _blocks(n):
            out[rows] = encoder.encode(shard.counts(rows), shard.genes)
    out.flush()


def _check_tiles(config: PretrainConfig, shards: Sequence[Shard], tiles: EncoderInfo) -> None:
    wanted = config.he.tile_px or tiles.tile_px
    for shard in shards:
        if config.he.train_tiles and shard.has("he"):
            packed = shard.array("patches").shape[1] if shard.has("patches") else None
            if packed != wanted:
                pixels = "without pixels" if packed is None else f"with tiles of {packed} px"
                msg = (
                    f"section {shard.name!r} was packed {pixels}, and train_tiles=true needs tiles of {wanted} px; "
                    "pack it again, into another folder of shards"
                )
                raise ValueError(msg)
        if shard.has("he") and shard.array("he").shape[1] != tiles.dim:
            msg = (
                f"section {shard.name!r} was packed with {shard.array('he').shape[1]} numbers a tile, and tile encoder "
                f"{tiles.name!r} gives {tiles.dim}; pack it again, into another folder of shards"
            )
            raise ValueError(msg)


def _raw(shard: Shard, folder: Path, name: str) -> np.ndarray | None:
    if name == "he":
        return shard.array("he") if shard.has("he") else None
    path = folder / "st_raw.npy"
    return np.load(path, mmap_mode="r") if path.is_file() else None


def _statistics(
    shards: Sequence[Shard],
    folders: Mapping[str, Path],
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
    name: str,
    dim: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread over the training spots of all sections; 0 and 1 where no section has the modality."""
    n, total, square = 0, np.zeros(dim), np.zeros(dim)
    for shard in shards:
        values = _raw(shard, folders[shard.name], name)
        if values is None:
            continue
        rows = splits[shard.name][0]
        for part in row_blocks((len(rows), dim)):
            block = np.asarray(values[rows[part]], dtype=np.float64)
            block = block[np.isfinite(block).all(axis=1)]
            n, total, square = n + len(block), total + block.sum(axis=0), square + np.square(block).sum(axis=0)
    if n == 0:
        return np.zeros(dim, np.float32), np.ones(dim, np.float32)
    mean = total / n
    spread = np.sqrt(np.maximum(square / n - mean**2, 0))
    return mean.astype(np.float32), spread.astype(np.float32)


def _tokens(
    shard: Shard,
    folder: Path,
    statistics: Mapping[str, np.ndarray],
    vocabulary: Vocabulary,
    library: Library,
    *,
    within: bool,
) -> None:
    """Write standardised tokens, as inference makes them, and what the targets need."""
    own = library.columns(shard.genes)
    for name in ("he", "st"):
        values = _raw(shard, folder, name)
        if values is None:
            continue
        mean, std = statistics[f"{name}_mean"], statistics[f"{name}_std"]
        if name == "he":
            tokens = standardise(values, mean, std, within=within, clip=CLIP)
        else:
            tokens = standardise(values, mean, std, within=within, isotropic=True)
            if own is not None:
                # A spot without counts in the common genes has no target.
                for rows in _blocks(len(shard)):
                    tokens[rows[np.asarray(shard.counts(rows)[:, own].sum(axis=1)).ravel() == 0]] = np.nan
        np.save(folder / f"{name}.npy", tokens)
    columns = match_genes(shard.genes, vocabulary).index
    total, n = np.zeros(len(shard.genes)), 0
    if shard.has("counts_data"):
        for rows in _blocks(len(shard)):
            expression = log_normalise(shard.counts(rows), library=own)
            total += np.asarray(expression.sum(axis=0)).ravel()
            n += int(np.count_nonzero(expression.sum(axis=1)))
    mean = np.zeros(len(vocabulary), dtype=np.float32)
    mean[columns[columns >= 0]] = total[columns >= 0] / max(n, 1)
    np.save(folder / "columns.npy", columns)
    np.save(folder / "mean.npy", mean)
    if own is not None:
        np.save(folder / "library.npy", own)
    (folder / "st_raw.npy").unlink(missing_ok=True)
