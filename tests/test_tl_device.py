"""Where a network runs, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import storm
from storm.encoders import wrap_encoder
from storm.tl._device import resolve_device


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_n_threads_is_torch_s_number(device) -> None:
    storm.settings.n_threads = 3
    assert resolve_device(device).type == "cpu"
    assert torch.get_num_threads() == 3


def test_none_leaves_torch_s_number() -> None:
    torch.set_num_threads(2)
    resolve_device("cpu")
    assert torch.get_num_threads() == 2
    storm.settings.n_threads = 3
    resolve_device("cpu")
    storm.settings.n_threads = None
    resolve_device("cpu")
    assert torch.get_num_threads() == 3


def test_a_device_that_is_not_there_changes_nothing() -> None:
    storm.settings.n_threads = 3
    with pytest.raises(ValueError, match=r"'cuda:99' is not on this machine"):
        resolve_device("cuda:99")
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_n_threads_is_a_positive_integer(value) -> None:
    with pytest.raises(ValueError, match=f"n_threads is a positive integer or None, not {value!r}"):
        storm.settings.n_threads = value


def test_every_tool_that_runs_a_network_obeys(toy, tiny_model) -> None:
    storm.settings.n_threads = 2
    seen: list[int] = []

    def watch(*_) -> None:
        seen.append(torch.get_num_threads())
        torch.set_num_threads(1)  # the next tool has to set it again

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            watch()
            return x.mean(dim=(2, 3))

    whole = {"device": "cpu", "batch_size": 4096}  # one batch, so one look
    handle = tiny_model.network.register_forward_hook(watch)
    try:
        storm.tl.embed(toy, model=tiny_model, **whole)
        head = storm.tl.fit_expression(toy, model=tiny_model, n_genes=2, config=storm.HeadConfig(epochs=1), **whole)
        storm.tl.predict_expression(toy, model=tiny_model, head=head, **whole)
    finally:
        handle.remove()
    encoder = wrap_encoder(Mean(), name="mean", dim=3, mean=(0, 0, 0), std=(1, 1, 1), tile_px=8, field_um=8.0)
    storm.tl.encode_tiles(toy, encoder=encoder, **whole)
    assert seen == [2, 2, 2, 2]
