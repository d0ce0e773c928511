"""A model as a whole: network, tile encoder, expression encoder, genes and head."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from torch import nn

from storm._checks import check_choice
from storm._loading.head import ExpressionHead
from storm._types import Readout
from storm.data.genes import Vocabulary
from storm.encoders import EncoderInfo
from storm.expression.interface import ExpressionEncoder
from storm.model.config import StormConfig
from storm.model.storm import Storm

READOUTS: tuple[Readout, ...] = get_args(Readout)


@dataclass(frozen=True, kw_only=True)
class StormModel:
    """A loaded model.

    Attributes
    ----------
    name
        Name, folder or address under which it was loaded.
    network
        The spatial encoder with its decoders, in evaluation mode.
    tile_encoder
        The tile encoder that it was trained with. Its weights are looked for when the first tile is encoded.
    expression
        The expression encoder.
    vocabulary
        Genes that the ST decoder writes, the union of the training panels.
    statistics
        Training mean and standard deviation of the tile and expression embeddings: ``he_mean``, ``he_std``,
        ``st_mean``, ``st_std``.
    settings
        What else belongs to the model: ``standardise`` ("section" or "training"), ``readout``, ``modality_weights``,
        and, where it is not the tile encoder's own, ``tile_px``.
    head
        Expression head, or ``None``.
    card
        Free facts for the reader: training sections, licence, scores.

    Raises
    ------
    ValueError
        If the parts do not fit each other.
    """

    name: str
    network: Storm
    tile_encoder: EncoderInfo
    expression: ExpressionEncoder
    vocabulary: Vocabulary
    statistics: nn.ParameterDict
    settings: dict[str, Any]
    head: ExpressionHead | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice(self.settings["readout"], READOUTS, name="readout")
        check_choice(self.settings["standardise"], ("section", "training"), name="standardise")
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
        """Whether it has learned anything; random weights are for tests and for pretraining."""
        return self.settings.get("trained", True)

    @cached_property
    def sha256(self) -> str:
        """Checksum over all weights: two models with one checksum give the same embedding."""
        from storm.expression.store import KINDS

        digest = hashlib.sha256()
        stored = type(self.expression) in KINDS.values()
        for state in (
            self.network.state_dict(), self.expression.state() if stored else {}, self.statistics.state_dict(),
        ):  # fmt: skip
            for name, tensor in sorted(state.items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        # Models of the first format had neither weights in the tile encoder nor another kind of expression encoder.
        if self.tile_encoder.sha256 is not None:
            digest.update(self.tile_encoder.sha256.encode())
        if not stored:
            digest.update(self.expression.name.encode())
        elif self.expression.kind != "factors":
            digest.update(json.dumps(self.expression.facts(), sort_keys=True).encode())
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

        Published weights of a tile encoder are not copied: the folder names them, with their checksum. Weights of its
        own, after fine-tuning, get a file of their own, ``tile_encoder.safetensors``, with their licence beside it.

        Parameters
        ----------
        path
            Folder; made if it does not exist.

        Raises
        ------
        TypeError
            If the expression encoder is a class of the user's own.
        """
        from storm._loading.folder import write_model

        write_model(self, Path(path).expanduser())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool = True,
        include_tile_encoder: bool = False,
        commit_message: str = "Upload a STORM model",
    ) -> str:
        """Upload the model to the Hugging Face hub, where :meth:`from_pretrained` finds it.

        Parameters
        ----------
        repo_id
            ``"owner/name"``; made if it does not exist.
        token
            The user's access token; ``None`` takes ``HF_TOKEN`` or what ``hf auth login`` stored.
        private
            Whether a new repository is private.
        include_tile_encoder
            Upload fine-tuned weights of the tile encoder too. Their maker's licence may forbid it, so the default is
            not to.
        commit_message
            Of the upload.

        Returns
        -------
        str
            Address of the upload.

        Raises
        ------
        ConnectionError
            If the hub cannot be reached.
        PermissionError
            If the hub refuses the upload.
        """
        from storm._loading.hub import push

        return push(
            self, repo_id, token=token, private=private, include_tile_encoder=include_tile_encoder,
            commit_message=commit_message,
        )  # fmt: skip

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        sha256: str | None = None,
        tile_encoder: str | Path | EncoderInfo | None = None,
    ) -> StormModel:
        """Load a model from the Hugging Face hub, downloading it if need be; or from a folder.

        Parameters
        ----------
        source
            ``"owner/name"`` on the hub, or a folder that :meth:`save` wrote.
        revision
            Branch, tag or commit.
        token
            The user's access token; ``None`` takes ``HF_TOKEN`` or what ``hf auth login`` stored.
        local_files_only
            Look only in the hub's cache on this machine.
        sha256, tile_encoder
            See :func:`storm.load_model`.

        Returns
        -------
        StormModel

        Raises
        ------
        FileNotFoundError, ConnectionError, PermissionError, ValueError
            As :func:`storm.load_model`.
        """
        from storm._loading.load import load_model

        return load_model(
            source, download=not local_files_only, revision=revision, token=token, sha256=sha256,
            tile_encoder=tile_encoder,
        )  # fmt: skip
