"""What a run needs before its first step: genes, expression encoder, statistics, tokens, an untrained model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from storm._loading import StormModel, load_model
from storm._loading.files import write_json
from storm._logging import logger
from storm.data.genes import Vocabulary, match_genes
from storm.data.normalise import log_normalise, row_blocks, standardise
from storm.encoders import EncoderInfo, get_encoder, load_encoder, with_weights
from storm.expression import ExpressionEncoder, FactorExpression, NovaeEncoder, VariableGenes
from storm.model.build import build_storm
from storm.pretraining.config import PretrainConfig
from storm.pretraining.factors import Panel, choose_genes, fit_factors
from storm.pretraining.shards import Shard, open_shard
from storm.pretraining.stream import StreamedSection, split_windows

_READY = "prepared.json"
#: Standard deviations beyond which a tile feature is an artefact; as in :func:`storm.tl.embed`.
_CLIP = 6.0
_BLOCK = 8192
#: Fields that may change between the parts of an interrupted run: the numbers stay the same, or nearly.
RUNNING = ("accelerator", "devices", "nodes", "precision", "checkpoint_steps", "keep_checkpoints", "sections", "out",
           "shards")  # fmt: skip


def tile_encoder_of(config: PretrainConfig) -> EncoderInfo | None:
    """The run's tile encoder with its weights, or ``None`` for expression only.

    Raises
    ------
    FileNotFoundError
        If its weights are not on this machine.
    ValueError
        If it is unknown, or has no weights that could be drawn at random.
    """
    if not config.tile_encoder:
        return None
    if config.tile_init == "random":
        info = get_encoder(config.tile_encoder)
        if info.architecture is None:
            msg = f"tile_init='random' needs an encoder with weights, and {info.name!r} has none"
            raise ValueError(msg)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            module = info.architecture()
        return with_weights(info, module.requires_grad_(False).eval())
    return load_encoder(config.tile_encoder, weights=config.tile_weights)


def prepare(config: PretrainConfig, shards: Sequence[Shard]) -> tuple[StormModel, list[StreamedSection]]:
    """Make what the run needs, or open what an earlier start of the same run made.

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
        If ``config.out`` holds another run, no section has counts, or held-out sections are not there.
    """
    out = Path(config.out)
    if (out / _READY).is_file():
        return open_prepared(config)
    names = [shard.name for shard in shards]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"several sections are called {twice}; give each a name of its own"
        raise ValueError(msg)
    if unknown := sorted(set(config.validation_sections) - set(names)):
        msg = f"validation_sections={unknown} are not among the sections {sorted(names)}"
        raise ValueError(msg)
    learned = [shard for shard in shards if shard.name not in config.validation_sections]
    if not any(shard.has("counts_data") for shard in learned):
        msg = "no section to train on has counts; pretraining needs expression, of some sections at least"
        raise ValueError(msg)
    folders = {name: out / "tokens" / name for name in names}
    splits = {}
    for shard in shards:
        folders[shard.name].mkdir(parents=True, exist_ok=True)
        whole = shard.name in config.validation_sections
        train, validate = split_windows(shard, 0.0 if whole else config.validation_share)
        splits[shard.name] = (train[:0], train) if whole else (train, validate)
        for what, rows in zip(("train", "validate"), splits[shard.name], strict=True):
            np.save(folders[shard.name] / f"{what}.npy", rows)
    rng = np.random.default_rng(config.seed)
    panels = _panels(learned, splits, spots=config.fit_spots, rng=rng)
    symbols = choose_genes([(panels, config.genes or sum(len(p.genes) for p in panels))])
    expression = _expression(config, panels, symbols)
    tiles = tile_encoder_of(config) or get_encoder("stain-texture")
    for shard in shards:
        _raw_tokens(shard, expression, folders[shard.name])
    dims = {"he": tiles.dim, "st": expression.dim}
    _check_dims(shards, tiles)
    statistics = {}
    for name, dim in dims.items():
        statistics[f"{name}_mean"], statistics[f"{name}_std"] = _statistics(learned, folders, splits, name, dim)
    vocabulary = Vocabulary(tuple(symbols))
    for shard in shards:
        _tokens(shard, folders[shard.name], statistics, vocabulary, within=config.standardise == "section")
    model = _untrained(config, tiles, expression, vocabulary, statistics)
    model.save(out / "start")
    facts = {"config": config.to_dict(), "shards": {s.name: str(s.path) for s in shards}}
    write_json(out / _READY, facts)
    logger.info("prepared %d sections, %d genes", len(shards), len(symbols))
    return open_prepared(config, check=False)


def is_prepared(config: PretrainConfig) -> bool:
    """Whether :func:`prepare` has finished."""
    return (Path(config.out) / _READY).is_file()


def prepared_sections(config: PretrainConfig) -> list[str]:
    """Names of the sections of a prepared run."""
    return list(json.loads((Path(config.out) / _READY).read_text(encoding="utf-8"))["shards"])


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
    out = Path(config.out)
    facts = json.loads((out / _READY).read_text(encoding="utf-8"))
    own = config.to_dict()
    other = sorted(name for name in own if name not in RUNNING and facts["config"].get(name) != own[name])
    if other:
        said = ", ".join(f"{name}: {facts['config'].get(name)!r} there, {own[name]!r} here" for name in other)
        msg = f"{str(out)!r} holds a run of another configuration ({said}); give another out, or remove the folder"
        raise ValueError(msg)
    how = {"relative": config.standardise == "section", "counted": config.st_likelihood == "nb"}
    sections = [
        StreamedSection(open_shard(Path(config.shards) / Path(path).name, check=check), out / "tokens" / name, **how)
        for name, path in facts["shards"].items()
    ]
    with torch.random.fork_rng(devices=[]):  # networks are drawn before they are filled
        return replace(load_model(out / "start"), name=out.name), sections


def _panels(shards, splits, *, spots: int, rng: np.random.Generator) -> list[Panel]:
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
        panels.append(Panel(log_normalise(shard.counts(chosen)), np.array(shard.genes)))
    return panels


def _expression(config: PretrainConfig, panels: list[Panel], symbols: list[str]) -> ExpressionEncoder:
    if config.expression == "model":
        return load_model(config.expression_model).expression
    if config.expression == "hvg":
        return VariableGenes(choose_genes([(panels, config.hvg_genes)]), min_genes=config.min_genes)
    most = min(sum(panel.expression.shape[0] for panel in panels), len(symbols)) - 1
    if config.expression_dim > most:
        msg = f"expression_dim={config.expression_dim} is more than {most}, what these spots and genes allow"
        raise ValueError(msg)
    factors = fit_factors([panel.over(symbols) for panel in panels], config.expression_dim, seed=config.seed)
    return FactorExpression(factors, Vocabulary(tuple(symbols)), min_genes=config.min_genes)


def _blocks(n: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))


def _raw_tokens(shard: Shard, encoder: ExpressionEncoder, folder: Path) -> None:
    """Expression embeddings before standardisation, block by block."""
    if not shard.has("counts_data"):
        return
    n = len(shard)
    out = np.lib.format.open_memmap(folder / "st_raw.npy", mode="w+", dtype=np.float32, shape=(n, encoder.dim))
    how = {}
    if isinstance(encoder, NovaeEncoder):
        if encoder.needs_centres:
            msg = f"expression encoder {encoder.name!r} looks at neighbours, which may be masked; use context='spot'"
            raise ValueError(msg)
        # Novae standardises within the section: these numbers need all of its counts once.
        how["statistics"] = encoder.statistics(shard.counts(np.arange(n)), shard.genes)
    for rows in _blocks(n):
        out[rows] = encoder.encode(shard.counts(rows), shard.genes, **how)
    out.flush()


def _check_dims(shards: Sequence[Shard], tiles: EncoderInfo) -> None:
    for shard in shards:
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


def _statistics(shards, folders, splits, name: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
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


def _tokens(shard: Shard, folder: Path, statistics, vocabulary: Vocabulary, *, within: bool) -> None:
    """Standardised tokens, as inference makes them, and what the targets need."""
    kinds = {"he": {"clip": _CLIP}, "st": {"isotropic": True}}
    for name, how in kinds.items():
        values = _raw(shard, folder, name)
        if values is not None:
            mean, std = statistics[f"{name}_mean"], statistics[f"{name}_std"]
            np.save(folder / f"{name}.npy", standardise(values, mean, std, within=within, **how))
    columns = match_genes(shard.genes, vocabulary).index
    total, n = np.zeros(len(shard.genes)), 0
    if shard.has("counts_data"):
        for rows in _blocks(len(shard)):
            expression = log_normalise(shard.counts(rows))
            total, n = total + np.asarray(expression.sum(axis=0)).ravel(), n + np.count_nonzero(expression.getnnz(1))
    mean = np.zeros(len(vocabulary), dtype=np.float32)
    mean[columns[columns >= 0]] = total[columns >= 0] / max(n, 1)
    np.save(folder / "columns.npy", columns)
    np.save(folder / "mean.npy", mean)
    (folder / "st_raw.npy").unlink(missing_ok=True)


def _untrained(config, tiles, expression, vocabulary, statistics) -> StormModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        sizes = {"he_dim": tiles.dim, "st_dim": expression.dim, "n_genes": len(vocabulary)}
        network = build_storm(config.size, **(sizes | config.network()))
    settings = {
        "standardise": config.standardise, "readout": "window", "modality_weights": {"he": 0.5, "st": 1.0},
        "trained": False,
    }  # fmt: skip
    if config.tile_px is not None:
        settings["tile_px"] = config.tile_px
    return StormModel(
        name=Path(config.out).name,
        network=network.requires_grad_(False).eval(),
        tile_encoder=tiles,
        expression=expression,
        vocabulary=vocabulary,
        statistics=nn.ParameterDict(
            {key: nn.Parameter(torch.from_numpy(value), requires_grad=False) for key, value in statistics.items()}
        ),
        settings=settings,
        card={"summary": f"untrained start of {Path(config.out).name!r}"},
    )
