"""``storm.load_model``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from storm._loading.fetch import find_model
from storm._loading.folder import read_model
from storm._loading.model import StormModel

if TYPE_CHECKING:
    from storm.encoders import EncoderInfo


def load_model(
    model: str | Path | StormModel = "storm-mini",
    *,
    tile_encoder: str | Path | EncoderInfo | None = None,
    sha256: str | None = None,
    download: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> StormModel:
    """Load a model by name, from a folder, from the Hugging Face hub or from an address.

    Every file is checked against the checksum in the model's configuration; nothing is unpickled. The weights of the
    tile encoder are not part of a model unless it fine-tuned them: they are looked for on this machine when the first
    tile is encoded, and must have the checksum of those that the model was trained with.

    Parameters
    ----------
    model
        Name of a packaged model; a folder that :meth:`StormModel.save` wrote; ``"owner/name"`` on the Hugging Face hub,
        which is looked for in the hub's cache on this machine unless ``download``; the ``https://`` address of such a
        folder, which is fetched once and kept in ``storm.settings.cache_dir``; or a model already loaded.
    tile_encoder
        Your copy of the tile encoder's weights (file or folder), or what :func:`storm.encoders.load_encoder` or
        :func:`storm.encoders.wrap_encoder` returned.
    sha256
        The model's checksum, as :attr:`StormModel.sha256` says it, to be sure that it is the very one.
    download
        Fetch it from the hub if it is not on this machine or has changed there; fetch an address again.
    revision
        Branch, tag or commit on the hub.
    token
        Access token for the hub; ``None`` takes ``HF_TOKEN`` or what ``hf auth login`` stored.

    Returns
    -------
    StormModel
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If no model of that name exists, a file does not fit its checksum or the configuration, the model or its tile
        encoder is another one, or the folder has a format that this version does not know.
    FileNotFoundError
        If a file of the model is missing, or it is not on this machine; the text says how to get it.
    ConnectionError
        If the hub or the address cannot be reached.
    PermissionError
        If the hub refuses.
    """
    if isinstance(model, StormModel):
        loaded = model
        if tile_encoder is not None:
            msg = f"model {model.name!r} is loaded already; give tile_encoder when it is loaded from its folder"
            raise ValueError(msg)
    else:
        folder = find_model(model, download=download, revision=revision, token=token)
        loaded = read_model(folder, name=str(model), tile_encoder=tile_encoder)
    if sha256 is not None and loaded.sha256 != sha256.lower():
        msg = f"model {loaded.name!r} has the sha256 {loaded.sha256}, not {sha256}; it is another model"
        raise ValueError(msg)
    return loaded
