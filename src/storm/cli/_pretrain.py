"""``storm pretrain``: pack the sections, prepare the run, and train from its last checkpoint."""

from __future__ import annotations

import os
import time
from pathlib import Path

from storm._inference.pack import pack_section, packed_section
from storm._interrupt import says_how_to_go_on
from storm._progress import progress
from storm.cli._stores import read_store
from storm.pretraining.config import PretrainConfig
from storm.pretraining.prepare import is_prepared, prepare, prepared_sections
from storm.pretraining.start import tile_encoder_of
from storm.pretraining.train import train


def pretrain(*, config: Path, seed: int | None, prepare_only: bool) -> None:
    """``storm pretrain``.

    Raises
    ------
    FileNotFoundError
        If the configuration, a section or weights do not exist.
    ValueError
        If the configuration is invalid; see :class:`storm.pretraining.config.PretrainConfig`.
    """
    recipe = PretrainConfig.read(config)
    if seed is not None:
        recipe = recipe.changed(seed=seed)
    if _first():
        _make_ready(recipe)
    while not is_prepared(recipe):
        # The launcher (torchrun, SLURM) ends the waiting processes if the first one fails.
        time.sleep(1)
    if prepare_only:
        if _first():
            print(f"prepared: {recipe.run.out}")
        return
    model = train(recipe)
    if _first():
        print(f"pretrained: {model}")


def _first() -> bool:
    """Whether this is the first process of the run, or its only one."""
    ranks = [os.environ[name] for name in ("RANK", "SLURM_PROCID") if name in os.environ]
    return int(ranks[0] if ranks else os.environ.get("LOCAL_RANK", 0)) == 0


def _make_ready(recipe: PretrainConfig) -> None:
    if is_prepared(recipe):
        # The prepared sections may have been removed since, but no new ones may have been added.
        present = [path for path in map(Path, recipe.data.sections) if path.exists()]
        names = {store.stem for path in present for store in _stores(path)}
        if new := sorted(names - set(prepared_sections(recipe))):
            msg = f"{recipe.run.out} holds a run without the sections {new}; set another out, or remove the folder"
            raise ValueError(msg)
        return
    stores = find_sections(recipe)
    tiles = tile_encoder_of(recipe)
    shards = []
    kept = f"sections that are packed are kept in {recipe.data.shards}; the same command goes on with the others"
    with says_how_to_go_on(kept):
        for name, path in progress(stores.items(), desc="sections packed", unit="section", total=len(stores)):
            folder = Path(recipe.data.shards) / name
            shard = packed_section(folder, name=name, config=recipe, tiles=tiles)
            shards.append(shard or pack_section(read_store(path), folder, name=name, config=recipe, tiles=tiles))
        prepare(recipe, shards)


def _stores(path: Path) -> list[Path]:
    return [path] if path.suffix == ".zarr" else sorted(path.glob("*.zarr"))


def find_sections(recipe: PretrainConfig) -> dict[str, Path]:
    """Return the stores of a run by the names of its sections, in the order of the configuration.

    Raises
    ------
    FileNotFoundError
        If a path does not exist, or a folder holds no store.
    ValueError
        If the configuration names no section, or two have the same name.
    """
    if not recipe.data.sections:
        msg = "the configuration names no sections; give sections = ['folder/with/stores', 'another.zarr']"
        raise ValueError(msg)
    sections: dict[str, Path] = {}
    for path in map(Path, recipe.data.sections):
        if not path.exists():
            msg = f"section {path} does not exist"
            raise FileNotFoundError(msg)
        stores = _stores(path)
        if not stores:
            msg = f"{path} holds no *.zarr; give a folder with stores, or a store"
            raise FileNotFoundError(msg)
        for store in stores:
            if store.stem in sections:
                msg = f"{sections[store.stem]} and {store} are both called {store.stem!r}; rename one of them"
                raise ValueError(msg)
            sections[store.stem] = store
    return sections
