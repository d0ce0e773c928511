"""Where a network runs, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

import storm
from storm._inference.device import resolve_device
from storm.encoders import wrap_encoder


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
    with pytest.raises(ValueError, match=f"n_threads={value!r} must be a whole number"):
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
    handle = tiny_model.network.norm.register_forward_hook(watch)
    try:
        storm.tl.embed(toy, model=tiny_model, **whole)
        head = storm.tl.fit_expression(toy, model=tiny_model, n_genes=2, config=storm.HeadConfig(epochs=1), **whole)
        storm.tl.predict_expression(toy, model=tiny_model, head=head, **whole)
    finally:
        handle.remove()
    encoder = wrap_encoder(Mean(), name="mean", dim=3, mean=(0, 0, 0), std=(1, 1, 1), tile_px=8, field_um=8.0)
    storm.tl.encode_tiles(toy, encoder=encoder, **whole)
    assert seen == [2, 2, 2, 2]


class Greedy(torch.nn.Module):
    """Has memory for so many at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.sizes = room, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError
        return x.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("room", [5, 64])
def test_out_of_memory_goes_on_with_less(room, caplog) -> None:
    from storm._inference.fallback import Run

    network, x = Greedy(room), torch.rand(20, 3, 4, 4)
    run = Run(network, device=torch.device("cpu"), precision="fp32", compiled=False, channels_last=False)
    torch.testing.assert_close(run(x), x.mean((1, 2, 3))[:, None])
    torch.testing.assert_close(run(x), x.mean((1, 2, 3))[:, None])
    if room == 5:
        assert "does not hold 20 at a time: going on with 10" in caplog.text
        assert network.sizes == [20, 10, 5, 5, 5, 5, 5, 5, 5, 5]  # asked for less the second time
    else:
        assert network.sizes == [20, 20]


def test_a_single_one_that_does_not_fit_is_an_error() -> None:
    from storm._inference.fallback import Run

    run = Run(Greedy(0), device=torch.device("cpu"), precision="fp32", compiled=False, channels_last=False)
    with pytest.raises(torch.OutOfMemoryError):
        run(torch.rand(3, 3, 4, 4))


def test_windows_out_of_memory(toy, tiny_model, monkeypatch) -> None:
    storm.tl.embed(toy, model=tiny_model, readout="window")
    forward = type(tiny_model.network).forward_shared

    def greedy(self, batch, **options):
        if len(batch) > 40:
            raise torch.OutOfMemoryError
        return forward(self, batch, **options)

    monkeypatch.setattr(type(tiny_model.network), "forward_shared", greedy)
    storm.tl.embed(toy, model=tiny_model, readout="window", key_added="X_2")
    obsm = toy.tables["table"].obsm
    np.testing.assert_allclose(obsm["X_2"], obsm["X_storm"], atol=1e-6)
