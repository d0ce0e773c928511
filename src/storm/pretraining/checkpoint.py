"""Checkpoints of a training run: safetensors and json, whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from storm._loading.files import write_json
from storm._logging import logger
from storm.model.weights import load_weights, read_weights, save_state, save_weights, sha256

_PREFIX = "step-"


def save_checkpoint(
    folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer, *, state: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint under a scratch name, give it its name when it is complete, and drop old ones.

    Parameters
    ----------
    folder
        Folder of the run's checkpoints.
    network, optimiser
        What is kept of the training; the optimiser is over parameters of ``network``.
    state
        Facts for json; ``state["step"]`` names the checkpoint.
    keep
        How many checkpoints stay.

    Returns
    -------
    Path
        Folder of the checkpoint.
    """
    final = folder / f"{_PREFIX}{state['step']:09d}"
    scratch = folder / f"{final.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    names = {parameter: name for name, parameter in network.named_parameters()}
    moments = {
        f"{names[parameter]}|{key}": value
        for parameter, values in optimiser.state.items()
        for key, value in values.items()
    }
    sums = {
        "network.safetensors": save_weights(network, scratch / "network.safetensors"),
        "optimiser.safetensors": save_state(moments, scratch / "optimiser.safetensors"),
    }
    write_json(scratch / "state.json", {**state, "sha256": sums})
    if final.exists():
        shutil.rmtree(final)
    scratch.replace(final)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def find_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole; a damaged one is passed over with a warning."""
    for path in reversed(_checkpoints(folder)):
        try:
            sums = json.loads((path / "state.json").read_text(encoding="utf-8"))["sha256"]
            whole = all(sha256(path / name) == expected for name, expected in sums.items())
        except (OSError, ValueError, KeyError):
            whole = False
        if whole:
            return path
        logger.warning("checkpoint %s is damaged, going on from the one before", path.name)
    return None


def load_checkpoint(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Fill network and optimiser from a checkpoint and return its facts."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    sums = state.pop("sha256")
    load_weights(network, path / "network.safetensors", expected=sums["network.safetensors"])
    moments = read_weights(path / "optimiser.safetensors", expected=sums["optimiser.safetensors"])
    parameters = dict(network.named_parameters())
    optimiser.state.clear()
    for name, value in moments.items():
        of, key = name.split("|")
        parameter = parameters[of]
        optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    return state


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.suffix != ".part")
