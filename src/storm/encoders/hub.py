"""The Hugging Face hub: its cache on this machine, whether it can be reached, and how to get what is missing."""

from __future__ import annotations

import os
from pathlib import Path

from storm._logging import logger
from storm.encoders.info import EncoderInfo

#: Names under which weights are published, safetensors first.
NAMES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
#: Seconds within which the hub has to answer.
TIMEOUT = 10
UNREACHABLE = "the hub cannot be reached from here, or HF_HUB_OFFLINE is set"


def cache_dir() -> Path:
    """Folder of the hub's downloads, by the environment as it is now: it may be set after an import."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def cached_weights(info: EncoderInfo) -> Path | None:
    """An encoder's weights in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if info.hub_id is None:
        return None
    for name in NAMES:
        path = try_to_load_from_cache(info.hub_id, name, cache_dir=cache_dir())
        if isinstance(path, str):
            return Path(path)
    return None


def download_weights(info: EncoderInfo, token: str | None) -> Path | None:
    """Fetch an encoder's weights from the hub; ``None`` if they are not published there.

    Raises
    ------
    ConnectionError
        If the hub cannot be reached.
    PermissionError
        If it refuses the download.
    FileNotFoundError
        If its repository holds no weights.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    if info.hub_id is None:
        return None
    if not hub_answers():
        raise ConnectionError(how_to_get(info, UNREACHABLE))
    for name in NAMES:
        try:
            return Path(hf_hub_download(info.hub_id, name, cache_dir=cache_dir(), token=token, etag_timeout=TIMEOUT))
        except hub.LocalEntryNotFoundError as error:
            # A subclass of EntryNotFoundError, but raised when the hub did not answer.
            raise ConnectionError(how_to_get(info, UNREACHABLE)) from error
        except hub.EntryNotFoundError:
            logger.debug("%s has no file %s", info.hub_id, name)
        except (hub.GatedRepoError, hub.RepositoryNotFoundError) as error:
            raise PermissionError(how_to_get(info, "the hub does not give them to you")) from error
        except (hub.OfflineModeIsEnabled, ConnectionError) as error:
            raise ConnectionError(how_to_get(info, UNREACHABLE)) from error
        except hub.HfHubHTTPError as error:
            raise ConnectionError(how_to_get(info, f"the hub answered with an error ({error})")) from error
    msg = f"{info.hub_id!r} has none of the files {', '.join(NAMES)}; download its weights and give weights='…'"
    raise FileNotFoundError(msg)


def hub_answers() -> bool:
    """Whether the hub can be reached; its own client would retry many times without a network."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    if {"http", "https", "all"} & set(getproxies()):
        return True  # the proxy resolves the address, which this machine may not be able to
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        socket.create_connection((hub.hostname, hub.port or (80 if hub.scheme == "http" else 443)), TIMEOUT).close()
    except OSError:
        return False
    return True


def how_to_get(info: EncoderInfo, reason: str) -> str:
    """Error text that names the licence page, the environment variables and the ways to give the weights."""
    licence = f"licence {info.licence}" + (", gated: accept the terms on that page first" if info.gated else "")
    name = repr(info.name)
    terms = f"see {info.page} ({licence})" if info.page else licence
    return (
        f"tile encoder {name}: {reason}; looked in {cache_dir()}. {terms[0].upper() + terms[1:]}. Then either "
        f"(1) storm.encoders.load_encoder({name}, download=True), with your token in the environment variable "
        f"HF_TOKEN; or (2) give the folder or .safetensors file of a copy of the weights, weights='PATH'; "
        f"or (3) set HF_HOME to a cache that holds them, which works offline"
    )
