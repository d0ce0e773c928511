"""A training that diverges ends with an error: a model with a loss of NaN is worth less than none."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

_LOSSES = {"he": "H&E", "st": "expression"}


def check_losses(losses: Mapping[str, float], *, lr: float, when: str) -> None:
    """Raise if a loss is not finite.

    Parameters
    ----------
    losses
        Loss of each modality, or of whatever else is trained.
    lr
        Learning rate of the recipe.
    when
        Where in the training this is, for the message.

    Raises
    ------
    ValueError
        Names the loss, the place and the learning rate.
    """
    for name, loss in losses.items():
        if not math.isfinite(loss):
            msg = f"the training diverged: the loss of {_LOSSES.get(name, name)} is {loss} {when}; {_advice(lr)}"
            raise ValueError(msg)


def check_weights(module: nn.Module, *, lr: float, when: str) -> None:
    """Raise if a weight is not finite.

    Parameters
    ----------
    module
        What is trained.
    lr
        Learning rate of the recipe.
    when
        Where in the training this is, for the message.

    Raises
    ------
    ValueError
        Names the parameter, the place and the learning rate.
    """
    for name, parameter in module.named_parameters():
        # The sum of finite values may overflow, their largest may not.
        if parameter.numel() and not torch.isfinite(parameter.detach().abs().max()):
            msg = f"the training diverged: {name} has weights that are not finite {when}; {_advice(lr)}"
            raise ValueError(msg)


def _advice(lr: float) -> str:
    return f"lower the learning rate (lr={lr:g}), and check that counts and image are as expected"
