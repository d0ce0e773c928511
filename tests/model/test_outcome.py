"""The outcome networks."""

from __future__ import annotations

import pytest
import torch

from storm.model.outcome import NETWORKS, Outcome, OutcomeConfig

DIMS = {"he": 6, "st": 4}


def bags(n: int = 7, batch: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, n, dim, generator=generator) for name, dim in DIMS.items()}


def network(name: str, **changes) -> Outcome:
    torch.manual_seed(0)
    return Outcome(OutcomeConfig(**{"dims": DIMS, "network": name, "width": 16, "n_latents": 3} | changes)).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bag_is_a_set(name: str) -> None:
    """Neither the order of the tiles, nor padding, nor the other bags of a batch change an output."""
    net, values = network(name), bags()
    full = torch.ones(3, 7, dtype=torch.bool)
    with torch.no_grad():
        expected = net(values, full)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
        shuffled = net({key: value[:, order] for key, value in values.items()}, full)
        torch.testing.assert_close(shuffled, expected)
        padded = {key: torch.cat([value, torch.full((3, 2, value.shape[2]), 9.0)], 1) for key, value in values.items()}
        mask = torch.cat([full, torch.zeros(3, 2, dtype=torch.bool)], 1)
        torch.testing.assert_close(net(padded, mask), expected)
        alone = net({key: value[1:2] for key, value in values.items()}, full[:1])
        torch.testing.assert_close(alone, expected[1:2])
    assert expected.shape == (3, 1)
    assert expected.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("modality", ["he", "st"])
def test_one_modality(name: str, modality: str) -> None:
    net = network(name, dims={modality: DIMS[modality]}, outputs=4)
    found = net({modality: bags()[modality]}, torch.ones(3, 7, dtype=torch.bool))
    assert found.shape == (3, 4)
    assert not net.fusion


def test_modalities_read_each_other() -> None:
    """What the latents of H&E hold depends on expression only through the fusion."""
    net, values = network("perceiver"), bags()
    values["st"].requires_grad_()
    mask = torch.ones(3, 7, dtype=torch.bool)
    latents = net.perceivers["he"](net.tokens["he"](values["he"]), mask)
    other = net.perceivers["st"](net.tokens["st"](values["st"]), mask)
    net.fusion["he"](latents, other).sum().backward()
    assert values["st"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "transformer"}, r"network='transformer' is not an option; choose one of"),
        ({"dims": {}}, "give the length"),
        ({"width": 10}, "width=10 is no multiple of heads=4"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"n_latents": 0}, "n_latents"),
    ],
)
def test_impossible_sizes(changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        OutcomeConfig(**({"dims": DIMS} | changes))
