"""A model as a whole: its parts, its name, and how it is stored, published and loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from storm._loading.card import model_card
from storm._loading.fetch import find_model
from storm._loading.folder import leave_out, read_parts, write_parts
from storm._loading.hub import check_hub, upload
from storm._loading.parts import ModelParts
from storm._loading.tiles import WEIGHTS
from storm.encoders import EncoderInfo


@dataclass(frozen=True, kw_only=True)
class StormModel(ModelParts):
    """A loaded model.

    Attributes
    ----------
    name
        Name, folder or address from which it was loaded.
    network
        The spatial encoder with its decoders, in evaluation mode.
    tile_encoder
        The tile encoder that the network was trained with. Its weights are looked for when the first tile is encoded.
    expression
        The expression encoder.
    vocabulary
        Genes that the ST decoder predicts, the union of the training panels.
    statistics
        Training mean and standard deviation of the tile and expression embeddings: ``he_mean``, ``he_std``,
        ``st_mean``, ``st_std``.
    settings
        What else belongs to the model: ``standardise`` ("section" or "training"), ``readout``, ``modality_weights``,
        and, if it is not the tile encoder's own, ``tile_px``.
    head
        Expression head, or ``None``.
    card
        Free facts for the reader: training sections, licence, scores.

    Raises
    ------
    TypeError, ValueError
        If a setting has an impossible value, or the parts do not fit each other.
    """

    name: str

    def __repr__(self) -> str:
        c = self.network.config
        genes = "no expression head" if self.head is None else f"expression head of {len(self.head.genes)} genes"
        return (
            f"StormModel({self.name!r}, {'trained' if self.trained else 'not trained'}: tiles by "
            f"{self.tile_encoder.name!r}, expression by {self.expression.name!r}, width {c.width}, depth {c.depth}, "
            f"{genes})"
        )

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
        """Load a model from the Hugging Face hub, downloading it if necessary; or from a folder.

        Parameters
        ----------
        source
            ``"owner/name"`` on the hub, or a folder that :meth:`save` wrote.
        revision
            Branch, tag or commit.
        token
            The user's access token; by default ``HF_TOKEN``, or the token stored by ``hf auth login``.
        local_files_only
            Look only in the hub's cache on this machine.
        sha256, tile_encoder
            See :func:`storm.load_model`.

        Returns
        -------
        StormModel

        Raises
        ------
        FileNotFoundError, ConnectionError, PermissionError, TypeError, ValueError
            See :func:`storm.load_model`.
        """
        if not isinstance(source, str | Path):
            msg = (
                f"model={source!r} is a {type(source).__name__}; give the name of a packaged model, a folder, "
                "'owner/name' on the Hugging Face hub, an 'https://…' address (text or pathlib.Path), or a StormModel"
            )
            raise TypeError(msg)
        folder = find_model(source, download=not local_files_only, revision=revision, token=token)
        parts = read_parts(folder, tile_encoder=tile_encoder)
        loaded = cls(
            name=str(source),
            network=parts.network,
            tile_encoder=parts.tile_encoder,
            expression=parts.expression,
            vocabulary=parts.vocabulary,
            statistics=parts.statistics,
            settings=parts.settings,
            head=parts.head,
            card=parts.card,
        )
        check_same(loaded, sha256)
        return loaded

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
        write_parts(self, Path(path).expanduser())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool = True,
        include_tile_encoder: bool = False,
        commit_message: str = "Upload a STORM model",
    ) -> str:
        """Upload the model to the Hugging Face hub, for :meth:`from_pretrained`.

        Parameters
        ----------
        repo_id
            ``"owner/name"``; made if it does not exist.
        token
            The user's access token; by default ``HF_TOKEN``, or the token stored by ``hf auth login``.
        private
            Whether a new repository is private.
        include_tile_encoder
            Upload fine-tuned weights of the tile encoder too. Their maker's licence may forbid it, so they are left out
            by default.
        commit_message
            Message of the upload's commit.

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
        check_hub()
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_parts(self, folder)
            if not include_tile_encoder:
                leave_out(folder, WEIGHTS)
            card = model_card(self, has_tile_weights=(folder / WEIGHTS).is_file())
            return upload(folder, card, repo_id=repo_id, token=token, private=private, commit_message=commit_message)


def check_same(model: StormModel, sha256: str | None) -> None:
    """Raise unless a model has the expected checksum.

    Parameters
    ----------
    model
        The model.
    sha256
        The checksum, in upper or lower case; ``None`` if any will do.

    Raises
    ------
    TypeError
        If ``sha256`` is not text.
    ValueError
        If the model has another checksum.
    """
    if sha256 is None:
        return
    if not isinstance(sha256, str):
        msg = f"sha256={sha256!r} is a {type(sha256).__name__}; give the 64 characters of StormModel.sha256 as text"
        raise TypeError(msg)
    if model.sha256 != sha256.lower():
        msg = f"model {model.name!r} has the sha256 {model.sha256}, not {sha256}; it is another model"
        raise ValueError(msg)
