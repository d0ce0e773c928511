"""Fixtures and process-wide settings of the whole suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from storm import StormModel

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tensors here are tiny, and parallel workers share the cores.

    Before every test, not once: numba's OpenMP layer, which scanpy and novae use, raises the thread count that torch
    shares with it, and two workers with two spinning threads each are slower by orders of magnitude. An environment
    variable would come too late: a plugin of pytest imports numba before this file is read.
    """
    import torch

    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(1)
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


@pytest.fixture(scope="session")
def toy_once() -> SpatialData:
    """A small Visium-like section with planted domains; for reading only, see ``toy``."""
    import storm

    return storm.datasets.toy("visium", n=150, seed=0)


@pytest.fixture
def toy(toy_once: SpatialData) -> SpatialData:
    """The same section, all its own: a test may write into it, transformations of elements included."""
    import spatialdata

    return spatialdata.deepcopy(toy_once)


@pytest.fixture(scope="session")
def tiny_model(toy_once: SpatialData) -> StormModel:
    """A model of the smallest size with random weights, whose vocabulary is the toy's genes. It knows nothing."""
    import storm

    model = storm.build_model("storm-tiny", genes=toy_once.tables["table"].var_names)
    settings = {**model.settings, "readout": "center", "modality_weights": {"he": 1.0, "st": 1.0}}
    return replace(model, name="tiny-random", settings=settings)


@pytest.fixture(autouse=True)
def _figures_are_closed() -> Iterator[None]:
    """No test leaves figures to the next, which would be warned of too many."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
