"""What an outcome network learns from a table of patients, and how its outputs become a risk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from storm.pretraining.outcome_losses import cox_loss, hazard_loss, hazard_risk, response_loss

#: Losses for :func:`storm.prognosis.fit`.
LOSSES = ("cox", "nll", "bce")


@dataclass(frozen=True, eq=False)
class Target:
    """Outcome of patients.

    Attributes
    ----------
    loss
        One of ``LOSSES``.
    time
        Follow-up, float64, shape (n,); zeros for ``"bce"``.
    event
        Event or response, bool, shape (n,).
    edges
        Limits between the intervals of ``"nll"``, ascending, shape (bins − 1,).
    """

    loss: str
    time: np.ndarray
    event: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, outcome: pd.DataFrame, *, loss: str, bins: int, edges: np.ndarray | None = None) -> Target:
        """From a frame with ``time`` and ``event``, or ``event`` alone for a response; intervals by its own events."""
        event = outcome["event"].to_numpy(dtype=bool)
        time = outcome["time"].to_numpy(dtype=np.float64) if "time" in outcome else np.zeros(len(event))
        if edges is None:
            inner = np.linspace(0, 1, bins + 1)[1:-1]
            edges = np.unique(np.quantile(time[event], inner)) if loss == "nll" else np.empty(0)
        return cls(loss, time, event, edges)

    @property
    def outputs(self) -> int:
        """Outputs of the network."""
        return len(self.edges) + 1 if self.loss == "nll" else 1

    def tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Time (``"cox"``), interval (``"nll"``) or zeros, and event, of some patients."""
        time = self.time[rows]
        if self.loss == "nll":
            time = np.searchsorted(self.edges, time, side="left")
        return torch.from_numpy(time), torch.from_numpy(self.event[rows])

    def has_signal(self, rows: np.ndarray) -> bool:
        """Whether these patients say anything: for Cox one with an event and one followed at least as long."""
        if self.loss != "cox":
            return True
        time, event = self.time[rows], self.event[rows]
        return bool(len(rows) > 1 and event.any() and (time > time[event].min()).any())


def loss_of(loss: str, outputs: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Loss of outputs (n, k)."""
    if loss == "cox":
        return cox_loss(outputs[:, 0], time, event)
    if loss == "nll":
        return hazard_loss(outputs, time, event)
    return response_loss(outputs[:, 0], event)


def risk_of(loss: str, outputs: Tensor) -> Tensor:
    """Risk (n,), higher is worse (for a response: more likely), from outputs (n, k)."""
    return hazard_risk(outputs) if loss == "nll" else outputs[:, 0].float()
