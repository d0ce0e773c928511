"""User settings, validated when they are assigned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from storm._checks import check_whole

_DEFAULTS: dict[str, Any] = {"verbosity": 1, "data_dir": None, "cache_dir": None, "n_threads": None}


class Settings:
    """Settings of the running session.

    Attributes
    ----------
    verbosity
        0 hides progress bars, 1 shows them, in terminals and notebooks.
    data_dir
        Folder with a mirror of the public data sets; initially the environment variable ``STORM_DATA_DIR``.
    cache_dir
        Folder for downloads; initially the environment variable ``STORM_CACHE_DIR``. ``None`` is the user's cache
        folder.
    n_threads
        Number of threads for networks on the CPU. Every function that runs a network passes it to
        ``torch.set_num_threads``, which applies to the whole process; ``None`` leaves torch's own number unchanged.
        Where the network runs on an accelerator, it is the number of threads that decode the image for it; ``None``
        takes as many as there are cores for this process.
    """

    verbosity: int
    data_dir: Path | None
    cache_dir: Path | None
    n_threads: int | None

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Restore the defaults, and read the environment variables again."""
        for name, value in _DEFAULTS.items():
            setattr(self, name, value)
        for name in ("data_dir", "cache_dir"):
            setattr(self, name, os.environ.get(f"STORM_{name.upper()}") or None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _DEFAULTS:
            msg = f"unknown setting {name!r}; the settings are {', '.join(sorted(_DEFAULTS))}"
            raise AttributeError(msg)
        if name == "verbosity":
            if value not in (0, 1):
                msg = f"verbosity is 0 or 1, not {value!r}"
                raise ValueError(msg)
            value = int(value)
        elif value is not None and name == "n_threads":
            value = check_whole(value, name=name)
        elif value is not None:
            if not isinstance(value, str | os.PathLike) or not os.fspath(value):
                msg = f"{name} is the path of a folder, or None, not {value!r}"
                raise TypeError(msg)
            value = Path(value).expanduser()
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return "storm.settings(" + ", ".join(f"{k}={getattr(self, k)!r}" for k in _DEFAULTS) + ")"


settings = Settings()
