"""What an outcome network is trained by: a partial likelihood, discrete-time hazards, or a binary response."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def cox_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative log partial likelihood of Cox, with Efron's correction for ties, per event.

    A patient alone has no signal: the risk set of each event is made of the patients that are given.

    Parameters
    ----------
    risk
        Log hazard, higher is worse, shape (n,).
    time
        Follow-up, shape (n,).
    event
        Whether the event was seen, bool, shape (n,).

    Returns
    -------
    Tensor
        A scalar; zero, with a gradient of zero, without an event.

    References
    ----------
    Efron, Journal of the American Statistical Association 72, 557 (1977).
    """
    return _partial_likelihood(risk, time, event) / event.sum().clamp(min=1)


def _partial_likelihood(risk: Tensor, time: Tensor, event: Tensor, *, efron: bool = True) -> Tensor:
    risk = risk.float()
    if not event.any():
        return risk.sum() * 0.0
    shift = risk.detach().max()
    hazard = (risk - shift).exp()
    moments, place = torch.unique(time[event], return_inverse=True)
    at_risk = (time[None, :] >= moments[:, None]).to(hazard.dtype) @ hazard
    deaths = torch.zeros_like(at_risk).index_add(0, place, torch.ones_like(hazard[event]))
    tied = torch.zeros_like(at_risk).index_add(0, place, hazard[event])
    # The first of k tied events sees all of the tied, the last only a k-th of them.
    order = place.argsort(stable=True)
    first = torch.cumsum(deaths, 0) - deaths
    rank = torch.empty_like(hazard[event])
    rank[order] = torch.arange(len(order), dtype=rank.dtype, device=rank.device) - first[place[order]]
    share = rank / deaths[place] if efron else torch.zeros_like(rank)
    return ((at_risk[place] - share * tied[place]).log() + shift - risk[event]).sum()


def hazard_loss(logits: Tensor, interval: Tensor, event: Tensor, *, alpha: float = 0.0) -> Tensor:
    """Negative log-likelihood of discrete-time hazards, mean over patients.

    Parameters
    ----------
    logits
        Logits of the hazard in each interval, shape (n, intervals).
    interval
        Interval in which follow-up ends, shape (n,).
    event
        Whether it ends with the event, bool, shape (n,).
    alpha
        Extra weight of patients with an event, from 0 to 1: ``(1 − alpha)`` times the loss of all, plus ``alpha`` times
        that of those. 0 is the likelihood.

    Returns
    -------
    Tensor
        A scalar.

    References
    ----------
    Zadeh & Schmid, IEEE Transactions on Pattern Analysis and Machine Intelligence 43, 3126 (2021).
    """
    logits = logits.float()
    survive = logsigmoid(-logits)
    survival = torch.cat([torch.zeros_like(survive[:, :1]), survive.cumsum(dim=1)], dim=1)
    until = survival.gather(1, interval[:, None])[:, 0]
    through = survival.gather(1, interval[:, None] + 1)[:, 0]
    hazard = logsigmoid(logits).gather(1, interval[:, None])[:, 0]
    seen = -(until + hazard) * event
    censored = -through * ~event
    return ((1 - alpha) * (seen + censored) + alpha * seen).mean()


def hazard_risk(logits: Tensor) -> Tensor:
    """Minus the sum of the survival probabilities at the ends of the intervals, shape (n,)."""
    return -logsigmoid(-logits.float()).cumsum(dim=1).exp().sum(dim=1)


def response_loss(logits: Tensor, response: Tensor) -> Tensor:
    """Cross-entropy of a binary response, mean over patients."""
    return binary_cross_entropy_with_logits(logits.float(), response.float())
