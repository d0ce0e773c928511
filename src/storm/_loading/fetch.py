"""Where a model's folder is: in the package, on disk, in the hub's cache, on the hub, at an address."""

from __future__ import annotations

import re
from pathlib import Path

from storm._loading.address import from_address
from storm._loading.files import is_whole
from storm._logging import logger
from storm.encoders.hub import TIMEOUT, UNREACHABLE, cache_dir, hub_answers
from storm.model.build import SIZES

_PACKAGED = Path(__file__).parents[1] / "_weights"
#: Files of a repository that are downloaded: no pickle and no code.
_FILES = ("config.json", "head.json", "*.safetensors", "*.tsv", "*.txt", "README.md")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def list_models() -> list[str]:
    """Names of the packaged models."""
    return sorted(path.parent.name for path in _PACKAGED.glob("*/config.json"))


def find_model(source: str | Path, *, download: bool, revision: str | None, token: str | None) -> Path:
    """Find the folder of a model.

    Parameters
    ----------
    source, download, revision, token
        See :func:`storm.load_model`.

    Returns
    -------
    Path
        A folder with a ``config.json``.

    Raises
    ------
    ValueError, FileNotFoundError, ConnectionError, PermissionError
        See :func:`storm.load_model`.
    """
    text = str(source)
    if text.startswith(("https://", "http://")):
        return from_address(text.rstrip("/"), again=download)
    for folder in (_PACKAGED / text, Path(source)):
        if _exists(folder / "config.json"):
            return folder.expanduser()
    if _exists(Path(source), folder=True):
        content = ", ".join(sorted(p.name for p in Path(source).expanduser().iterdir())[:10]) or "nothing"
        msg = f"model={text!r} holds no config.json, but {content}; give a folder that StormModel.save wrote"
        raise ValueError(msg)
    if isinstance(source, str) and _REPO.fullmatch(text):
        return _from_hub(text, download=download, revision=revision, token=token)
    if text.removeprefix("storm-") in SIZES and text.startswith("storm-"):
        msg = (
            f"model={text!r} has no packaged weights; give the folder, hub name or address of a trained one, "
            f"or storm.build_model({text!r}, genes=…), whose weights are random"
        )
        raise ValueError(msg)
    msg = (
        f"model={text!r} is neither a packaged model ({', '.join(map(repr, list_models()))}) nor a folder with a "
        "config.json, a name on the Hugging Face hub ('owner/name') or an address ('https://…'); give one of these"
    )
    raise ValueError(msg)


def _exists(path: Path, *, folder: bool = False) -> bool:
    """Whether a path exists; not if it cannot be the path of anything, because it is too long or holds a null byte."""
    try:
        path = path.expanduser()
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a home folder that does not exist
        return False


def _from_hub(repo: str, *, download: bool, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    ways = (
        f"Either (1) storm.load_model({repo!r}, download=True), with your token in HF_TOKEN if it is private; or (2) "
        f"give a folder with a copy (hf download {repo} --local-dir FOLDER); or (3) set HF_HOME to a cache that holds "
        "it, which works offline"
    )
    try:
        folder = Path(
            snapshot_download(
                repo, revision=revision, cache_dir=cache_dir(), allow_patterns=list(_FILES), local_files_only=True
            )
        )
        if is_whole(folder) and not (download and revision is None and hub_answers()):
            return folder
    except (errors.LocalEntryNotFoundError, errors.RepositoryNotFoundError, errors.HFValidationError):
        logger.debug("%s is not in the hub's cache", repo)
    if not download:
        msg = f"model {repo!r} is not, or not wholly, on this machine (looked in {cache_dir()}). {ways}"
        raise FileNotFoundError(msg)
    if not hub_answers():
        msg = f"model {repo!r}: {UNREACHABLE}. {ways}"
        raise ConnectionError(msg)
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                cache_dir=cache_dir(),
                allow_patterns=list(_FILES),
                token=token,
                etag_timeout=TIMEOUT,
            )
        )
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        msg = f"the hub has no model {repo!r} at revision {revision or 'main'!r}, or does not give it to you. {ways}"
        raise PermissionError(msg) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        msg = f"model {repo!r} could not be fetched ({type(error).__name__}). {ways}"
        raise ConnectionError(msg) from error
