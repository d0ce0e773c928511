"""Where a model's folder is: in the package, on disk, in the hub's cache, on the hub, at an address."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from storm._loading.files import read_json
from storm._logging import logger
from storm._settings import settings
from storm.encoders.hub import TIMEOUT, UNREACHABLE, cache_dir, hub_answers
from storm.model.build import SIZES

_PACKAGED = Path(__file__).parents[1] / "_weights"
#: What a model's folder may hold; nothing else of a repository is fetched, no pickle and no code.
_FILES = ("config.json", "head.json", "*.safetensors", "*.tsv", "*.txt", "README.md")
_ENDINGS = (".json", ".safetensors", ".tsv", ".txt")
_NEW = "config.json.new"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def list_models() -> list[str]:
    """Names of the packaged models."""
    return sorted(path.parent.name for path in _PACKAGED.glob("*/config.json"))


def find_model(source: str | Path, *, download: bool, revision: str | None, token: str | None) -> Path:
    """Folder of a model.

    Parameters
    ----------
    source, download, revision, token
        See :func:`storm.load_model`.

    Raises
    ------
    ValueError, FileNotFoundError, ConnectionError, PermissionError
        See :func:`storm.load_model`.
    """
    text = str(source)
    for folder in (_PACKAGED / text, Path(source).expanduser()):
        if (folder / "config.json").is_file():
            return folder
    if text.startswith(("https://", "http://")):
        return _from_address(text.rstrip("/"), again=download)
    if Path(source).expanduser().is_dir():
        there = ", ".join(sorted(p.name for p in Path(source).expanduser().iterdir())[:10]) or "nothing"
        msg = f"model={text!r} holds no config.json, but {there}; give a folder that StormModel.save wrote"
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


def _from_hub(repo: str, *, download: bool, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    how = {"revision": revision, "cache_dir": cache_dir(), "allow_patterns": list(_FILES)}
    ways = (
        f"Either (1) storm.load_model({repo!r}, download=True), with your token in HF_TOKEN if it is private; or (2) "
        f"give a folder with a copy (hf download {repo} --local-dir FOLDER); or (3) set HF_HOME to a cache that holds "
        "it, which works offline"
    )
    try:
        folder = Path(snapshot_download(repo, local_files_only=True, **how))
        if _is_whole(folder) and not (download and revision is None and hub_answers()):
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
        return Path(snapshot_download(repo, token=token, etag_timeout=TIMEOUT, **how))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        msg = f"the hub has no model {repo!r} at revision {revision or 'main'!r}, or does not give it to you. {ways}"
        raise PermissionError(msg) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        msg = f"model {repo!r} could not be fetched ({type(error).__name__}). {ways}"
        raise ConnectionError(msg) from error


def _from_address(address: str, *, again: bool) -> Path:
    """A folder on a web server: its configuration names the other files and their checksums."""
    import pooch

    root = settings.cache_dir or Path(pooch.os_cache("storm"))
    folder = Path(root) / "models" / hashlib.sha256(address.encode()).hexdigest()[:16]
    if _is_whole(folder) and not again:
        return folder

    def get(name: str, known: str | None, remote: str = "") -> Path:
        source = f"{address}/{remote or name}"
        try:
            fetched = pooch.retrieve(
                source,
                known_hash=known and f"sha256:{known}",
                fname=name,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=(TIMEOUT, 120), progressbar=False),
            )
        except ValueError as error:
            msg = f"{source} does not fit the checksum in its config.json; it was changed or damaged on the way"
            raise ValueError(msg) from error
        except OSError as error:
            msg = (
                f"{source} could not be fetched ({type(error).__name__}). Offline, copy the folder to this machine and "
                "give its path"
            )
            raise ConnectionError(msg) from error
        return Path(fetched)

    # The new configuration takes its name when everything that it names is there: an interrupted or failed download
    # leaves what was here before.
    (folder / _NEW).unlink(missing_ok=True)
    values = read_json(get(_NEW, None, "config.json"))
    checks = values.get("sha256", {})
    if values.get("format", 0) < 2 or any(Path(n).name != n or not n.endswith(_ENDINGS) for n in checks):
        msg = f"{address}/config.json does not list its files as this version of storm needs it; save the model again"
        raise ValueError(msg)
    for name, known in checks.items():
        get(name, known)
    (folder / _NEW).replace(folder / "config.json")
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds every file that its configuration names."""
    config = folder / "config.json"
    return config.is_file() and all((folder / name).is_file() for name in read_json(config).get("sha256", {}))
