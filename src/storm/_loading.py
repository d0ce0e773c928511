"""A model as a whole: network, tile encoder, expression encoder, genes and head, in one folder of plain files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from storm._checks import check_choice
from storm.data.genes import Vocabulary
from storm.encoders import EncoderInfo, get_encoder
from storm.model.config import StormConfig
from storm.model.expression import FactorEncoder
from storm.model.heads import ExpressionMLP
from storm.model.storm import Storm
from storm.model.weights import load_weights, save_weights, sha256

_PACKAGED = Path(__file__).parent / "_weights"
_FORMAT = 1
READOUTS = ("center", "window", "reconstruction")


@dataclass(frozen=True, kw_only=True)
class ExpressionHead:
    """Genes from H&E: a trained head and how far to trust each gene.

    Attributes
    ----------
    genes
        Gene symbols, in the order of the head's output.
    reliability
        Pearson correlation of each gene on spots that the head was not trained on, shape (n_genes,); NaN where it was
        not measured.
    module
        The head, from H&E tokens to log1p-normalised expression.
    model_sha256
        Checksum of the model whose tokens it reads.
    notes
        What it was trained on and how its reliability was measured.
    """

    genes: tuple[str, ...]
    reliability: np.ndarray
    module: ExpressionMLP
    model_sha256: str
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the head into a folder (safetensors, json).

        Parameters
        ----------
        path
            Folder; made if it does not exist.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        checksum = save_weights(self.module, path / "head.safetensors")
        layer = self.module.hidden[0]
        values = {
            "format": _FORMAT,
            "genes": list(self.genes),
            "reliability": [None if np.isnan(r) else round(float(r), 4) for r in self.reliability],
            "in_dim": layer.in_features,
            "hidden": layer.out_features,
            "model_sha256": self.model_sha256,
            "notes": self.notes,
            "sha256": checksum,
        }
        _write_json(path / "head.json", values)

    @classmethod
    def load(cls, path: str | Path) -> ExpressionHead:
        """Read a head that :meth:`save` wrote.

        Parameters
        ----------
        path
            The folder.

        Returns
        -------
        ExpressionHead

        Raises
        ------
        FileNotFoundError
            If the folder holds no head.
        ValueError
            If its files do not fit their checksum or each other.
        """
        path = Path(path)
        values = _read_json(path / "head.json")
        module = ExpressionMLP(values["in_dim"], len(values["genes"]), hidden=values["hidden"])
        load_weights(module, path / "head.safetensors", expected=values["sha256"])
        reliability = np.array([np.nan if r is None else r for r in values["reliability"]], dtype=np.float32)
        return cls(
            genes=tuple(values["genes"]),
            reliability=reliability,
            module=module.requires_grad_(False).eval(),
            model_sha256=values["model_sha256"],
            notes=values["notes"],
        )


@dataclass(frozen=True, kw_only=True)
class StormModel:
    """A loaded model.

    Attributes
    ----------
    name
        Name or folder under which it was loaded.
    network
        The spatial encoder with its decoders, in evaluation mode.
    expression
        The expression encoder.
    vocabulary
        Genes that the expression encoder reads and the ST decoder writes.
    statistics
        Training mean and standard deviation of the tile and expression embeddings: ``he_mean``, ``he_std``,
        ``st_mean``, ``st_std``.
    settings
        What else belongs to the model: ``tile_encoder``, ``standardise`` ("section" or "training"), ``readout``,
        ``min_genes``.
    head
        Expression head, or ``None``.
    card
        Free facts for the reader: training sections, licence, scores.
    """

    name: str
    network: Storm
    expression: FactorEncoder
    vocabulary: Vocabulary
    statistics: nn.ParameterDict
    settings: dict[str, Any]
    head: ExpressionHead | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice(self.settings["readout"], READOUTS, name="readout")
        check_choice(self.settings["standardise"], ("section", "training"), name="standardise")

    @property
    def config(self) -> StormConfig:
        """Shape of the network."""
        return self.network.config

    @property
    def tile_encoder(self) -> EncoderInfo:
        """The tile encoder that the model was trained with."""
        return get_encoder(self.settings["tile_encoder"])

    @cached_property
    def sha256(self) -> str:
        """Checksum over all weights: two models with one checksum give the same embedding."""
        digest = hashlib.sha256()
        for module in (self.network, self.expression, self.statistics):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def statistic(self, name: str) -> np.ndarray:
        """One of the training statistics as an array.

        Parameters
        ----------
        name
            ``"he_mean"``, ``"he_std"``, ``"st_mean"`` or ``"st_std"``.

        Returns
        -------
        ndarray
            Shape (he_dim,) or (st_dim,).
        """
        return self.statistics[name].detach().cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write the model into a folder that :func:`storm.load_model` reads.

        Parameters
        ----------
        path
            Folder; made if it does not exist.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        parts = {"network": self.network, "expression": self.expression, "statistics": self.statistics}
        files = {
            f"{name}.safetensors": save_weights(module, path / f"{name}.safetensors") for name, module in parts.items()
        }
        ids = self.vocabulary.ensembl or ("",) * len(self.vocabulary)
        lines = "".join(
            f"{symbol}\t{identifier}\n" for symbol, identifier in zip(self.vocabulary.symbols, ids, strict=True)
        )
        (path / "genes.tsv").write_text(lines, encoding="utf-8")
        files["genes.tsv"] = sha256(path / "genes.tsv")
        if self.head is not None:
            self.head.save(path)
        values = {
            "format": _FORMAT,
            "network": self.config.to_dict(),
            "expression_dim": self.expression.dim,
            "settings": self.settings,
            "card": self.card,
            "sha256": files,
        }
        _write_json(path / "config.json", values)


def list_models() -> list[str]:
    """Names of the packaged models."""
    return sorted(path.parent.name for path in _PACKAGED.glob("*/config.json"))


def load_model(model: str | Path | StormModel = "storm-mini") -> StormModel:
    """Load a model by name or from a folder. Nothing is downloaded.

    Parameters
    ----------
    model
        Name of a packaged model, a folder that :meth:`StormModel.save` wrote, or a model already loaded.

    Returns
    -------
    StormModel
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If no model of that name exists, or a file does not fit its checksum or the configuration.
    FileNotFoundError
        If a file of the model is missing.
    """
    if isinstance(model, StormModel):
        return model
    folder = _PACKAGED / str(model)
    if not (folder / "config.json").is_file():
        folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        msg = (
            f"model={str(model)!r} is neither a packaged model ({', '.join(map(repr, list_models()))}) nor a folder "
            "with a config.json; give one of these"
        )
        raise ValueError(msg)
    values = _read_json(folder / "config.json")
    if values.get("format") != _FORMAT:
        found = values.get("format")
        msg = f"the model in {str(folder)!r} has format {found!r}, this version reads {_FORMAT}; update storm"
        raise ValueError(msg)
    checks = values["sha256"]
    vocabulary = _read_vocabulary(folder / "genes.tsv", checks["genes.tsv"])
    config = StormConfig.from_dict(values["network"])
    network = Storm(config)
    expression = FactorEncoder(len(vocabulary), values["expression_dim"])
    statistics = nn.ParameterDict(
        {
            f"{name}_{what}": nn.Parameter(torch.zeros(size), requires_grad=False)
            for name, size in (("he", config.he_dim), ("st", config.st_dim))
            for what in ("mean", "std")
        }
    )
    for name, module in (("network", network), ("expression", expression), ("statistics", statistics)):
        file = f"{name}.safetensors"
        load_weights(module, folder / file, expected=checks[file])
        module.requires_grad_(False).eval()
    head = ExpressionHead.load(folder) if (folder / "head.json").is_file() else None
    loaded = StormModel(
        name=str(model), network=network, expression=expression, vocabulary=vocabulary, statistics=statistics,
        settings=values["settings"], head=head, card=values["card"],
    )  # fmt: skip
    if head is not None and head.model_sha256 != loaded.sha256:
        msg = f"the expression head in {str(folder)!r} was trained on another network; copy the model's folder again"
        raise ValueError(msg)
    return loaded


def _read_vocabulary(path: Path, expected: str) -> Vocabulary:
    if not path.is_file() or sha256(path) != expected:
        msg = f"{path.name!r} in {str(path.parent)!r} is missing or does not fit its checksum; copy the folder again"
        raise ValueError(msg)
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    ids = tuple(row[1] for row in rows)
    return Vocabulary(tuple(row[0] for row in rows), ids if any(ids) else ())


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"there is no {path.name!r} in {str(path.parent)!r}"
        raise FileNotFoundError(msg)
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
