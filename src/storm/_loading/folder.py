"""A model's folder: json, safetensors and a list of genes, every file with its checksum."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from storm._loading.files import read_genes, read_json, write_genes, write_json
from storm._loading.head import ExpressionHead
from storm._loading.model import StormModel
from storm._loading.tiles import dump_tile_encoder, restore_tile_encoder
from storm.expression.store import dump, restore
from storm.model.config import StormConfig
from storm.model.storm import Storm
from storm.model.weights import load_weights, read_weights, save_state, save_weights, sha256

if TYPE_CHECKING:
    from storm.encoders import EncoderInfo

#: Format that is written; older ones are read, see :func:`_migrate`.
FORMAT = 2
_GENES, _EXPRESSION, _EXPRESSION_GENES = "genes.tsv", "expression.safetensors", "expression_genes.tsv"


def write_model(model: StormModel, path: Path) -> None:
    """Write a model into a folder; its configuration last, so that half a folder is never taken for a model."""
    facts, genes, state = dump(model.expression)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").unlink(missing_ok=True)
    files = {f"{n}.safetensors": save_weights(getattr(model, n), path / f"{n}.safetensors") for n in _MODULES}
    files[_GENES] = write_genes(path / _GENES, model.vocabulary)
    shared = genes == model.vocabulary
    facts["genes"] = _GENES if shared else _EXPRESSION_GENES
    if not shared:
        files[_EXPRESSION_GENES] = write_genes(path / _EXPRESSION_GENES, genes)
    if state:
        files[_EXPRESSION] = save_state(state, path / _EXPRESSION)
    tile_facts, tile_files = dump_tile_encoder(model.tile_encoder, path)
    if model.head is not None:
        model.head.save(path)
        files |= {name: sha256(path / name) for name in ("head.json", "head.safetensors")}
    values = {
        "format": FORMAT,
        "network": model.config.to_dict(),
        "tile_encoder": tile_facts,
        "expression": facts,
        "settings": model.settings,
        "card": model.card,
        "sha256": files | tile_files,
    }
    write_json(path / "config.json", values)


def read_model(path: Path, *, name: str, tile_encoder: str | Path | EncoderInfo | None = None) -> StormModel:
    """Read a model from a folder.

    Parameters
    ----------
    path
        The folder.
    name
        What the model is called from now on.
    tile_encoder
        The user's own copy of the tile encoder's weights, or a loaded encoder.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file does not fit its checksum or the configuration.
    """
    values = _migrate(read_json(path / "config.json"), path)
    checks = values["sha256"]
    vocabulary = read_genes(path / _GENES, checks[_GENES])
    config = StormConfig.from_dict(values["network"])
    modules = {"network": Storm(config), "statistics": empty_statistics(config)}
    for part, module in modules.items():
        load_weights(module, path / f"{part}.safetensors", expected=checks[f"{part}.safetensors"])
        module.requires_grad_(False).eval()
    facts = dict(values["expression"])
    genes = facts.pop("genes")
    own = vocabulary if genes == _GENES else read_genes(path / genes, checks[genes])
    state = read_weights(path / _EXPRESSION, expected=checks[_EXPRESSION]) if _EXPRESSION in checks else {}
    head = ExpressionHead.load(path) if (path / "head.json").is_file() else None
    loaded = StormModel(
        name=name, **modules, vocabulary=vocabulary, settings=values["settings"], head=head, card=values["card"],
        tile_encoder=restore_tile_encoder(values["tile_encoder"], path, checks, tile_encoder),
        expression=restore(facts, own, state),
    )  # fmt: skip
    if head is not None and head.model_sha256 != loaded.sha256:
        msg = f"the expression head in {str(path)!r} was trained on another network; copy the model's folder again"
        raise ValueError(msg)
    return loaded


_MODULES = ("network", "statistics")


def empty_statistics(config: StormConfig) -> nn.ParameterDict:
    """Training statistics that change nothing: mean 0, standard deviation 1."""
    return nn.ParameterDict(
        {
            f"{name}_{what}": nn.Parameter(fill(size), requires_grad=False)
            for name, size in (("he", config.he_dim), ("st", config.st_dim))
            for what, fill in (("mean", torch.zeros), ("std", torch.ones))
        }
    )


def _migrate(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration in today's format.

    Raises
    ------
    ValueError
        If it has a format that this version does not know.
    """
    found = values.get("format")
    if found == FORMAT:
        return values
    if found == 1:
        # The first format knew packaged encoders only, and their facts were the settings'.
        settings = dict(values["settings"])
        tiles = {"name": settings.pop("tile_encoder"), "dim": values["network"]["he_dim"]}
        tiles |= {"sha256": None, "modified": False}
        expression = {
            "kind": "factors", "dim": values["expression_dim"], "min_genes": settings.pop("min_genes"),
            "name": "factors", "genes": _GENES,
        }  # fmt: skip
        return {**values, "format": FORMAT, "settings": settings, "tile_encoder": tiles, "expression": expression}
    msg = (
        f"the model in {str(path)!r} has format {found!r}, and this version of storm reads formats 1 to {FORMAT}; "
        "update storm (pip install -U storm-spatial), or save the model again with the version that wrote it"
    )
    raise ValueError(msg)
