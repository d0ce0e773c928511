"""The parts of a model, and what they have to fulfil together."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from storm._checks import check_choice, check_whole
from storm._loading.head import ExpressionHead
from storm._types import Readout
from storm.data.genes import Vocabulary
from storm.encoders import EncoderInfo
from storm.expression.interface import ExpressionEncoder
from storm.expression.store import is_stored
from storm.model.config import StormConfig
from storm.model.storm import Storm

READOUTS: tuple[Readout, ...] = get_args(Readout)
#: What tokens are standardised with: the section's own statistics, or those of the training sections.
STANDARDISATIONS = ("section", "training")


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """The parts of a model; see :class:`storm.StormModel` for each of them.

    Raises
    ------
    TypeError, ValueError
        If a part or a setting has the wrong type, or the parts do not fit each other.
    """

    network: Storm
    tile_encoder: EncoderInfo
    expression: ExpressionEncoder
    vocabulary: Vocabulary
    statistics: nn.ParameterDict
    settings: dict[str, Any]
    head: ExpressionHead | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self.settings)
        for what, own, wanted in (
            (f"tile encoder {self.tile_encoder.name!r}", self.tile_encoder.dim, self.config.he_dim),
            (f"expression encoder {self.expression.name!r}", self.expression.dim, self.config.st_dim),
        ):
            if own != wanted:
                msg = f"{what} gives {own} numbers a spot, and the network reads {wanted}; use the one it was made for"
                raise ValueError(msg)
        if self.config.n_genes not in (0, len(self.vocabulary)):
            msg = f"the network writes {self.config.n_genes} genes, and the vocabulary names {len(self.vocabulary)}"
            raise ValueError(msg)

    @property
    def config(self) -> StormConfig:
        """Shape of the network."""
        return self.network.config

    @property
    def tile_px(self) -> int:
        """Side of the tile encoder's input in this model, in pixels."""
        return self.settings.get("tile_px", self.tile_encoder.tile_px)

    @property
    def trained(self) -> bool:
        """Whether the network was trained; random weights are for tests and for pretraining."""
        return self.settings.get("trained", True)

    @cached_property
    def sha256(self) -> str:
        """Checksum over all weights: two models with one checksum give the same embedding."""
        digest = hashlib.sha256()
        expression = self.expression
        stored = expression if is_stored(expression) else None
        for state in (
            self.network.state_dict(),
            {} if stored is None else stored.state(),
            self.statistics.state_dict(),
        ):
            for name, tensor in sorted(state.items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        # Models of the first format had neither weights in the tile encoder nor another kind of expression encoder.
        if self.tile_encoder.sha256 is not None:
            digest.update(self.tile_encoder.sha256.encode())
        if stored is None:
            digest.update(expression.name.encode())
        elif stored.kind != "factors":
            digest.update(json.dumps(stored.facts(), sort_keys=True).encode())
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
            float32, shape (he_dim,) or (st_dim,).
        """
        return self.statistics[name].detach().cpu().numpy()


def check_settings(settings: Any) -> None:
    """Raise unless a model's settings are complete and have possible values.

    Raises
    ------
    TypeError
        If they are not a dictionary.
    ValueError
        Names the setting.
    """
    if not isinstance(settings, dict):
        msg = f"settings must be a dictionary, not {settings!r}"
        raise TypeError(msg)
    for name, choices in (("readout", READOUTS), ("standardise", STANDARDISATIONS)):
        if name not in settings:
            msg = f"settings have no {name!r}, only {sorted(map(str, settings))}; it is one of {list(choices)}"
            raise ValueError(msg)
        check_choice(settings[name], choices, name=name)
    if "tile_px" in settings:
        check_whole(settings["tile_px"], name="tile_px")
    if not isinstance(settings.get("trained", True), bool):
        msg = f"trained={settings['trained']!r} must be true or false"
        raise ValueError(msg)
    weights = settings.get("modality_weights")
    if not isinstance(weights, dict) or not set(weights) <= {"he", "st"} or not all(map(_is_weight, weights.values())):
        msg = f"modality_weights={weights!r} must give a finite number of at least 0 for 'he' and for 'st'"
        raise ValueError(msg)


def empty_statistics(config: StormConfig) -> nn.ParameterDict:
    """Training statistics that change nothing: mean 0, standard deviation 1."""
    return nn.ParameterDict(
        {
            f"{name}_{what}": nn.Parameter(fill(size), requires_grad=False)
            for name, size in (("he", config.he_dim), ("st", config.st_dim))
            for what, fill in (("mean", torch.zeros), ("std", torch.ones))
        }
    )


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
