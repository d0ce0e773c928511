"""A model's folder on a web server, fetched once: its configuration lists the other files and their checksums."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from storm._loading.fields import Fields
from storm._loading.files import MAX_JSON, is_whole, read_fields
from storm._logging import logger
from storm._settings import settings
from storm.encoders.hub import TIMEOUT

_ENDINGS = (".json", ".safetensors", ".tsv", ".txt")
#: Largest configuration that is downloaded, in bytes; storm-mini's has 3,000.
_MAX_CONFIG = 4 * 1024**2
_NEW = "config.json.new"
#: Seconds until a server that is sending has to send more.
_READ_TIMEOUT = 120
_BLOCK = 1024**2


def from_address(address: str, *, again: bool) -> Path:
    """Folder of this machine that holds the model at an address.

    Parameters
    ----------
    address
        Of the folder, without a slash at the end.
    again
        Fetch the configuration, and what has changed, even if the model is on this machine.

    Raises
    ------
    ConnectionError
        If a file cannot be fetched.
    ValueError
        If a file does not match its checksum, is larger than declared, or the configuration is not one of a model.
    """
    import pooch

    root = settings.cache_dir or Path(pooch.os_cache("storm"))
    folder = Path(root) / "models" / hashlib.sha256(address.encode()).hexdigest()[:16]
    if not again:
        try:
            if is_whole(folder):
                return folder
        except ValueError as error:
            logger.warning("the copy of %s on this machine is damaged and is fetched again (%s)", address, error)
    # The new configuration takes its name when everything that it lists is on this machine: an interrupted or failed
    # download leaves what was here before.
    (folder / _NEW).unlink(missing_ok=True)
    try:
        _fetch(f"{address}/config.json", folder / _NEW, known=None, limit=_MAX_CONFIG)
        fields = read_fields(folder / _NEW)
        version = fields.raw("format") if "format" in fields else None
        checks = fields.checksums("sha256") if version == 2 and not isinstance(version, bool) else {}
        if not checks or any(not name.endswith(_ENDINGS) or name == "config.json" for name in checks):
            msg = (
                f"{address}/config.json does not list its files as this version of storm needs it; save the model again"
            )
            raise ValueError(msg)
        for name, known in checks.items():
            _fetch(f"{address}/{name}", folder / name, known=known, limit=_declared(fields, name))
    except BaseException:
        (folder / _NEW).unlink(missing_ok=True)
        raise
    (folder / _NEW).replace(folder / "config.json")
    return folder


def _declared(fields: Fields, name: str) -> int | None:
    """Size of a file by the configuration, in bytes; ``None`` for weights of storm 0.1.0, which declared none."""
    if "bytes" in fields and name in fields.section("bytes"):
        return fields.section("bytes").whole(name, least=0)
    return None if name.endswith(".safetensors") else MAX_JSON


def _fetch(source: str, path: Path, *, known: str | None, limit: int | None) -> None:
    """Download a file of at most ``limit`` bytes, unless it is on this machine with its checksum."""
    import pooch

    def download(url: str, output: Any, _: Any) -> None:
        _stream(url, Path(output), limit=limit)

    try:
        pooch.retrieve(
            source,
            known_hash=known and f"sha256:{known}",
            fname=path.name,
            path=path.parent,
            downloader=download,
        )
    except _TooLargeError as error:
        raise ValueError(str(error)) from error
    except ValueError as error:
        msg = f"{source} does not fit the checksum in its config.json; it was changed or damaged on the way"
        raise ValueError(msg) from error
    except OSError as error:
        msg = (
            f"{source} could not be fetched ({type(error).__name__}: {str(error)[:200]}). Offline, copy the folder "
            "to this machine and give its path"
        )
        raise ConnectionError(msg) from error


class _TooLargeError(ValueError):
    """A file is larger than it was declared to be."""


def _stream(url: str, path: Path, *, limit: int | None) -> None:
    import requests

    with requests.get(url, stream=True, timeout=(TIMEOUT, _READ_TIMEOUT)) as answer:
        answer.raise_for_status()
        announced = answer.headers.get("Content-Length", "")
        compressed = "Content-Encoding" in answer.headers
        size = int(announced) if announced.isdecimal() and not compressed else None
        # The size in the configuration counts; for files of old models, what the server announces.
        most = limit if limit is not None else size
        if most is None:
            msg = f"{url} has no declared size, neither in config.json nor by its server; save the model again"
            raise _TooLargeError(msg)
        free = shutil.disk_usage(path.parent).free
        if most > free:
            msg = f"{url} takes {most:,} bytes, and {str(path.parent)!r} has {free:,} left; free some space"
            raise OSError(msg)
        received = 0
        with open(path, "wb") as file:
            for block in answer.iter_content(_BLOCK):
                received += len(block)
                if received > most:
                    msg = f"{url} is larger than the {most:,} bytes that it may have, and was not fetched"
                    raise _TooLargeError(msg)
                file.write(block)
