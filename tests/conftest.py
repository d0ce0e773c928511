"""Fixtures and process-wide settings of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors here are tiny, and parallel workers share the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_settings():
    """No test sees another test's settings; progress bars are off."""
    from storm._settings import settings

    settings.reset()
    settings.verbosity = 0
    yield
    settings.reset()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real test sections: ``STORM_DATA_DIR``, or ``shared/data`` beside the repository."""
    given = os.environ.get("STORM_DATA_DIR")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real sections are not here: {folder} does not exist (set STORM_DATA_DIR to their folder)")
    return folder
