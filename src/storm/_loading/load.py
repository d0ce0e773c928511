"""``storm.load_model``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from storm._loading.model import StormModel, check_same

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

    Every file is checked against the checksum in the model's configuration; nothing is unpickled. Sizes in the
    configuration are compared with the weights before memory is allocated, and weights must be finite. The weights of
    the tile encoder are not part of a model unless it fine-tuned them: they are looked for on this machine when the
    first tile is encoded, and must have the checksum of those that the model was trained with. Torch's and numpy's
    random numbers are left alone.

    Parameters
    ----------
    model
        Name of a packaged model; a folder that :meth:`StormModel.save` wrote; ``"owner/name"`` on the Hugging Face hub,
        which is looked for in the hub's cache on this machine unless ``download``; the ``https://`` address of such a
        folder, which is fetched once and kept in ``storm.settings.cache_dir``; or a model already loaded.
    tile_encoder
        Your copy of the tile encoder's weights (file or folder), or an encoder from
        :func:`storm.encoders.load_encoder` or :func:`storm.encoders.wrap_encoder`.
    sha256
        Expected checksum of the model, as in :attr:`StormModel.sha256`.
    download
        Fetch the model from the hub if it is not on this machine or has changed there; fetch an address again.
    revision
        Branch, tag or commit on the hub.
    token
        Access token for the hub; by default ``HF_TOKEN``, or the token stored by ``hf auth login``.

    Returns
    -------
    StormModel
        On the CPU, in evaluation mode.

    Raises
    ------
    TypeError
        If ``model``, ``tile_encoder`` or ``sha256`` has another type than those above.
    ValueError
        If no model of that name exists; a file does not match its checksum or the configuration; the configuration has
        an impossible field or a format that this version of storm does not read; weights are not finite real numbers;
        or the model or its tile encoder is not the expected one.
    FileNotFoundError
        If a file of the model is missing, or the model is not on this machine; the text tells how to get it.
    ConnectionError
        If the hub or the address cannot be reached.
    PermissionError
        If the hub refuses the download.

    Examples
    --------
    >>> import storm
    >>> model = storm.load_model("storm-mini")
    >>> model.name, model.trained
    ('storm-mini', True)
    """
    if isinstance(model, StormModel):
        if tile_encoder is not None:
            msg = f"model {model.name!r} is loaded already; give tile_encoder when it is loaded from its folder"
            raise ValueError(msg)
        check_same(model, sha256)
        return model
    return StormModel.from_pretrained(
        model,
        revision=revision,
        token=token,
        local_files_only=not download,
        sha256=sha256,
        tile_encoder=tile_encoder,
    )
