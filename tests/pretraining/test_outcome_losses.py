"""Losses of outcome networks against published reference values and definitions."""

from __future__ import annotations

import pytest
import torch

from storm.pretraining.outcome_losses import _partial_likelihood, cox_loss, hazard_loss, hazard_risk, response_loss

TIME = torch.tensor([2.0, 2, 2, 5, 5, 8])
EVENT = torch.tensor([True, True, False, True, True, True])
RISK = [0.4, -0.3, 0.2, 1, -0.5, 0.1]


def test_ties() -> None:
    risk = torch.tensor(RISK, requires_grad=True)
    assert _partial_likelihood(risk, TIME, EVENT).item() == pytest.approx(5.8833699, abs=2e-6)
    breslow = _partial_likelihood(risk, TIME, EVENT, efron=False)
    assert breslow.item() == pytest.approx(6.5064698, abs=2e-6)
    breslow.backward()
    expected = [-0.6215578, -0.8120712, 0.3098423, 0.9167865, -0.5723071, 0.7793072]
    torch.testing.assert_close(risk.grad, torch.tensor(expected), atol=1e-6, rtol=0)


def test_mean_per_event() -> None:
    risk, time = torch.tensor([0.3, -0.2, 0.5, 1.1]), torch.tensor([5.0, 3, 9, 1])
    event = torch.tensor([True, True, False, True])
    assert cox_loss(risk, time, event).item() == pytest.approx(1.0525870, abs=1e-6)
    assert _partial_likelihood(risk, time, event).item() / 4 == pytest.approx(0.7894403, abs=1e-6)
    # large risks do not overflow, and what all have in common does not matter
    assert cox_loss(risk + 500, time, event).item() == pytest.approx(1.0525870, abs=1e-4)
    shuffled = torch.tensor([2, 0, 3, 1])
    assert cox_loss(risk[shuffled], time[shuffled], event[shuffled]).item() == pytest.approx(1.0525870, abs=1e-6)


def test_no_signal_without_a_risk_set() -> None:
    risk = torch.tensor([0.7], requires_grad=True)
    loss = cox_loss(risk, torch.tensor([3.0]), torch.tensor([True]))
    loss.backward()
    assert loss.item() == pytest.approx(0)
    assert risk.grad is not None
    assert risk.grad.item() == pytest.approx(0)
    none = cox_loss(torch.randn(4, requires_grad=True), torch.arange(4.0) + 1, torch.zeros(4, dtype=torch.bool))
    assert none.item() == 0
    none.backward()


def test_discrete_hazards() -> None:
    logits = torch.tensor([[0.2, -0.5, 0.1, 0.7], [-1, 0.3, 0, -0.2], [0.5, 0.5, -1.5, 2], [1.2, -0.7, 0.4, -0.1]])
    interval, event = torch.tensor([0, 2, 3, 1]), torch.tensor([True, False, True, False])
    for alpha, expected in ((0, 1.650467), (0.4, 1.277743), (0.5, 1.184563)):
        assert hazard_loss(logits, interval, event, alpha=alpha).item() == pytest.approx(expected, abs=1e-6)
    expected = torch.tensor([-0.907648, -1.283248, -0.650503, -0.480800])
    torch.testing.assert_close(hazard_risk(logits), expected, atol=1e-6, rtol=0)


def test_a_response() -> None:
    loss = response_loss(torch.tensor([0.0, 0.0]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx(0.6931472)
