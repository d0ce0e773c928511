"""Uploading a model's folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from storm._loading.files import write_text
from storm.encoders.hub import UNREACHABLE, hub_answers

_ADVICE = "model.save(folder) writes the same files, which can be uploaded from elsewhere (hf upload)"


def check_hub() -> None:
    """Raise if the hub cannot be reached.

    Raises
    ------
    ConnectionError
        Tells how to publish the model from elsewhere.
    """
    if not hub_answers():
        msg = f"{UNREACHABLE}; {_ADVICE}"
        raise ConnectionError(msg)


def upload(folder: Path, card: str, *, repo_id: str, token: str | None, private: bool, commit_message: str) -> str:
    """Upload a folder with its model card; see :meth:`storm.StormModel.push_to_hub`.

    Parameters
    ----------
    folder
        Everything that is uploaded.
    card
        Text of the model card, which becomes the folder's ``README.md``.
    repo_id, token, private, commit_message
        See :meth:`storm.StormModel.push_to_hub`.

    Returns
    -------
    str
        Address of the upload.

    Raises
    ------
    PermissionError
        If the hub refuses the upload.
    """
    from huggingface_hub import HfApi, errors

    write_text(folder / "README.md", card)
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))
    except errors.HfHubHTTPError as error:
        msg = f"the hub does not accept the upload to {repo_id!r} ({str(error).splitlines()[0][:200]}); {_ADVICE}"
        raise PermissionError(msg) from error
