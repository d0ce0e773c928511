"""User settings, validated on assignment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_DEFAULTS: dict[str, Any] = {"verbosity": 1, "data_dir": None, "cache_dir": None, "n_threads": None}


class Settings:
    """Settings of the running session.

    Attributes
    ----------
    verbosity
        0 silences progress bars, 1 shows them.
    data_dir
        Folder of a mirror of the public data sets; initial value from the environment variable ``STORM_DATA_DIR``.
    cache_dir
        Folder for downloads; initial value from ``STORM_CACHE_DIR``, else the user's cache folder.
    n_threads
        Threads that a network runs with on the CPU. It is handed to ``torch.set_num_threads``, which holds for the
        whole process, whenever a function of :mod:`storm.tl` starts to run one; ``None`` leaves torch's number as it
        is.
    """

    verbosity: int
    data_dir: Path | None
    cache_dir: Path | None
    n_threads: int | None

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Restore the defaults (and read the environment again)."""
        for name, value in _DEFAULTS.items():
            setattr(self, name, value)
        self.data_dir = os.environ.get("STORM_DATA_DIR") or None
        self.cache_dir = os.environ.get("STORM_CACHE_DIR") or None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _DEFAULTS:
            msg = f"unknown setting {name!r}; there are {sorted(_DEFAULTS)}"
            raise AttributeError(msg)
        if name == "verbosity" and value not in (0, 1):
            msg = f"verbosity is 0 or 1, not {value!r}"
            raise ValueError(msg)
        counts = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if name == "n_threads" and value is not None and not counts:
            msg = f"n_threads is a positive integer or None, not {value!r}"
            raise ValueError(msg)
        if name in ("data_dir", "cache_dir") and value is not None:
            value = Path(value).expanduser()
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return "storm.settings(" + ", ".join(f"{k}={getattr(self, k)!r}" for k in _DEFAULTS) + ")"


settings = Settings()
