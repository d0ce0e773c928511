"""Checkpoints of a training run, safetensors and json: either whole, or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from storm._files import remove, replacing
from storm._loading.files import write_json
from storm._logging import logger
from storm.model.weights import load_weights, read_weights, save_state, save_weights, sha256

_PREFIX = "step-"


def save_checkpoint(
    folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer, *, state: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint, whole or not at all, and drop old ones.

    Parameters
    ----------
    folder
        Folder of the run's checkpoints.
    network
        What is trained.
    optimiser
        Its optimiser, over parameters of ``network``.
    state
        Progress of the run, for json; ``state["step"]`` names the checkpoint.
    keep
        Number of checkpoints that stay.

    Returns
    -------
    Path
        Folder of the checkpoint.
    """
    names: dict[Any, str] = {parameter: name for name, parameter in network.named_parameters()}
    moments = {
        f"{names[parameter]}|{key}": value
        for parameter, values in optimiser.state.items()
        for key, value in values.items()
    }
    final = folder / f"{_PREFIX}{state['step']:09d}"
    with replacing(final) as scratch:
        scratch.mkdir(parents=True)
        sums = {
            "network.safetensors": save_weights(network, scratch / "network.safetensors"),
            "optimiser.safetensors": save_state(moments, scratch / "optimiser.safetensors"),
        }
        write_json(scratch / "state.json", {**state, "sha256": sums})
    for old in _checkpoints(folder)[:-keep]:
        remove(old)
    return final


def find_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole, or ``None``; a damaged one is skipped with a warning."""
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
    """Fill network and optimiser from a checkpoint, and return the progress of its run."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    sums = state.pop("sha256")
    load_weights(network, path / "network.safetensors", expected=sums["network.safetensors"])
    moments = read_weights(path / "optimiser.safetensors", expected=sums["optimiser.safetensors"], real=False)
    parameters = dict(network.named_parameters())
    optimiser.state.clear()
    for name, value in moments.items():
        owner, key = name.split("|")
        parameter = parameters[owner]
        optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    return state


def _checkpoints(folder: Path) -> list[Path]:
    # Not those that are being written, or making room: those have an ending.
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if not path.suffix)
