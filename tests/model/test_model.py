"""The network's promises, in numbers."""

from __future__ import annotations

import json
import math

import pytest
import torch

from storm.model import Storm, StormConfig, WindowBatch, build_storm
from storm.model.masking import draw_visible
from storm.model.positions import alibi_slopes, distance_bias
from storm.model.readout import center, present_spots, reconstruct_masked, reconstruction_basis, window

TOL = {"rtol": 1e-5, "atol": 1e-6}


def centre(output):
    """Mean of the centre's tokens over the modalities that it has."""
    return torch.stack(list(center(output).values())).nanmean(dim=0)


@pytest.fixture
def network() -> Storm:
    torch.manual_seed(0)
    return build_storm("tiny", n_genes=11).eval()


def make_batch(n: int = 3, length: int = 9, *, seed: int = 0, drop: float = 0.2) -> WindowBatch:
    g = torch.Generator().manual_seed(seed)
    masks = [torch.rand(n, length, generator=g) > drop for _ in range(2)]
    for mask in masks:
        mask[:, 0] = True
    offsets = torch.randn(length, 2, generator=g)
    offsets[0] = 0
    return WindowBatch(
        offsets=offsets,
        he=torch.randn(n, length, 16, generator=g), he_mask=masks[0],
        st=torch.randn(n, length, 8, generator=g), st_mask=masks[1],
    )  # fmt: skip


def replace(batch: WindowBatch, **changes) -> WindowBatch:
    return WindowBatch(**{**vars(batch), **changes})


def test_padding_changes_nothing(network):
    batch = make_batch()
    pad = lambda x, value: torch.cat([x, torch.full((*x.shape[:1], 4, *x.shape[2:]), value, dtype=x.dtype)], 1)  # noqa: E731
    padded = WindowBatch(
        offsets=torch.cat([batch.offsets, torch.full((4, 2), 7.0)]),
        he=pad(batch.he, math.nan), he_mask=pad(batch.he_mask, False),
        st=pad(batch.st, math.inf), st_mask=pad(batch.st_mask, False),
    )  # fmt: skip
    for name in ("he", "st"):
        plain, filled = getattr(network(batch), name), getattr(network(padded), name)
        torch.testing.assert_close(filled[:, :9], plain, **TOL)
        assert (filled[:, 9:] == 0).all()


def test_a_window_does_not_see_its_batch(network):
    batch = make_batch(5)
    whole = centre(network(batch))
    for i in range(5):
        alone = replace(batch, **{k: getattr(batch, k)[i : i + 1] for k in ("he", "st", "he_mask", "st_mask")})
        torch.testing.assert_close(centre(network(alone)), whole[i : i + 1], **TOL)


def test_masked_spot_has_exactly_zero_influence(network):
    batch = make_batch(drop=0.4)
    batch.he.requires_grad_(True)
    batch.st.requires_grad_(True)
    centre(network(batch)).square().sum().backward()
    for tokens, mask in ((batch.he, batch.he_mask), (batch.st, batch.st_mask)):
        assert (tokens.grad[~mask] == 0).all()
        assert (tokens.grad[mask].abs().sum(-1) > 0).all()


def test_reconstruction_cannot_see_what_is_masked(network):
    batch = make_batch(4, drop=0.0)
    batch.he.requires_grad_(True)
    batch.st.requires_grad_(True)
    slots, shown = draw_visible(present_spots(batch), 3, generator=torch.Generator().manual_seed(1))
    hidden, masked = reconstruct_masked(network, batch, slots, shown)
    assert masked.sum(1).tolist() == [6] * 4
    for state in hidden.values():
        gradients = torch.autograd.grad(state.square().sum(), [batch.he, batch.st], retain_graph=True)
        for gradient in gradients:
            assert (gradient[masked] == 0).all()
            assert (gradient[~masked].abs().sum(-1) > 0).all()


def test_something_is_always_left_to_reconstruct(network):
    """Windows that have fewer members than may be visible: all but one are shown, of a single one nothing is."""
    batch = make_batch(4, drop=0.0)
    present = torch.arange(9) < torch.tensor([[9], [4], [2], [1]])
    batch = replace(batch, he_mask=present, st_mask=present)
    for n_visible in (3, 5, 9):
        slots, shown = draw_visible(present_spots(batch), n_visible, generator=torch.Generator().manual_seed(1))
        hidden, masked = reconstruct_masked(network, batch, slots, shown)
        expected = [max(9 - n_visible, 1), max(4 - n_visible, 1), 1, 0]
        assert masked.sum(1).tolist() == expected
        assert not (masked & ~present).any()
        assert all(state[masked].isfinite().all() for state in hidden.values())


def test_attention_without_any_key_gives_the_bias_of_its_projection(network):
    """Neither NaN nor a mean over tokens that are masked: in one window no key may be seen, in the other one may."""
    attention = network.blocks[0].attention
    torch.nn.init.normal_(attention.proj.bias)
    x = torch.randn(2, 5, attention.qkv.in_features, requires_grad=True)
    keys = torch.zeros(2, 5, dtype=torch.bool)
    keys[1, 3] = True
    out = attention(x, torch.zeros(1, attention.heads, 5, 5), keys)
    torch.testing.assert_close(out[0], attention.proj.bias.expand(5, -1), rtol=0, atol=0)
    assert not torch.allclose(out[1], attention.proj.bias.expand(5, -1), atol=1e-3)
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad[0] == 0).all()


def test_order_of_neighbours_is_irrelevant_to_the_centre(network):
    batch = make_batch()
    order = torch.tensor([0, *(1 + torch.randperm(8, generator=torch.Generator().manual_seed(3))).tolist()])
    shuffled = WindowBatch(
        offsets=batch.offsets[order],
        **{k: getattr(batch, k)[:, order] for k in ("he", "st", "he_mask", "st_mask")},
    )
    torch.testing.assert_close(centre(network(shuffled)), centre(network(batch)), **TOL)


@pytest.mark.parametrize("name", ["he", "st"])
def test_one_modality_equals_masking_the_other(network, name):
    other = {"he": "st", "st": "he"}[name]
    batch = make_batch()
    alone = replace(batch, **{other: None, f"{other}_mask": None})
    masked = replace(batch, **{f"{other}_mask": torch.zeros_like(batch.he_mask)})
    torch.testing.assert_close(getattr(network(alone), name), getattr(network(masked), name), **TOL)
    torch.testing.assert_close(centre(network(alone)), centre(network(masked)), **TOL)


def test_offsets_may_be_shared_or_per_window(network):
    batch = make_batch()
    torch.testing.assert_close(
        network(replace(batch, offsets=batch.offsets.expand(3, 9, 2))).he, network(batch).he, **TOL
    )


def test_positions_and_modalities_matter(network):
    batch = make_batch(drop=0.0)
    moved = centre(network(replace(batch, offsets=batch.offsets * 3)))
    assert not torch.allclose(moved, centre(network(batch)), atol=1e-3)


def test_window_without_any_token_is_nan_and_spares_the_rest(network):
    batch = make_batch()
    none = batch.he_mask.clone()
    none[1] = False
    st = batch.st_mask.clone()
    st[1] = False
    output = network(replace(batch, he_mask=none, st_mask=st))
    assert centre(output)[1].isnan().all()
    assert centre(output)[[0, 2]].isfinite().all()
    assert window(output, batch)["he"][1].isnan().all()


def test_alibi():
    assert alibi_slopes(8).tolist() == [2.0**-k for k in range(1, 9)]
    twelve = alibi_slopes(12)
    assert twelve[:8].tolist() == alibi_slopes(8).tolist()
    assert twelve[8:].tolist() == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    bias = distance_bias(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([1.0, 0.5]))
    assert bias.shape == (1, 2, 2, 2)
    assert bias[0, :, 0, 1].tolist() == [-5.0, -2.5]
    assert (bias.diagonal(dim1=-2, dim2=-1) == 0).all()


def test_window_readout_weights_by_distance(network):
    batch = make_batch(drop=0.3)
    output = network(batch)
    weight = torch.exp(-batch.offsets.square().sum(-1) / (2 * 0.7**2))
    for name in ("he", "st"):
        tokens, mask = getattr(output, name), getattr(batch, f"{name}_mask")
        for i in range(3):
            share = weight * mask[i]
            expected = (share[:, None] * tokens[i]).sum(0) / share.sum()
            torch.testing.assert_close(window(output, batch)[name][i], expected, **TOL)
        torch.testing.assert_close(center(output)[name], tokens[:, 0], **TOL)


def test_reconstruction_basis_keeps_the_decoders_distances(network):
    states = torch.randn(20, 32)
    out = network.decoders["st"].out
    expected = torch.cdist(out(states), out(states))
    found = states @ reconstruction_basis(network, "st")
    torch.testing.assert_close(torch.cdist(found, found), expected, rtol=1e-4, atol=1e-4)


def test_sizes():
    base = build_storm("base", decoder_depth=0)
    blocks = sum(p.numel() for p in base.blocks.parameters())
    assert blocks == 6 * (2 * 2 * 768 + 4 * 768**2 + 4 * 768 + 2 * (8 * 768**2 + 5 * 768))
    assert base.config.he_dim == 768
    assert base.config.st_dim == 64
    assert not base.decoders
    with pytest.raises(ValueError, match="tiny"):
        build_storm("huge")


def test_config_round_trip():
    config = build_storm("mini", n_genes=5).config
    assert StormConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="colour"):
        StormConfig.from_dict({**config.to_dict(), "colour": 1})
    for wrong in ({"width": 100, "heads": 12}, {"dropout": 1.0}, {"depth": 0}, {"st_likelihood": "poisson"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            StormConfig(**wrong)


def test_batch_is_checked():
    tokens = torch.zeros(2, 9, 16)
    with pytest.raises(ValueError, match="at least one modality"):
        WindowBatch(offsets=torch.zeros(9, 2))
    with pytest.raises(ValueError, match="he_mask"):
        WindowBatch(offsets=torch.zeros(9, 2), he=tokens, he_mask=torch.ones(2, 9))
    with pytest.raises(ValueError, match="9 positions"):
        WindowBatch(offsets=torch.zeros(8, 2), he=tokens, he_mask=torch.ones(2, 9, dtype=torch.bool))


def test_bf16_stays_close(network):
    batch = make_batch()
    plain = centre(network(batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = centre(network(batch))
    assert torch.nn.functional.cosine_similarity(plain, rough.float()).min() > 0.999


def test_the_window_readout_is_a_gaussian_mean_over_the_tokens_that_exist(network):
    """Against the definition: σ is 0.7 pitch, and a neighbour counts the less the farther it is."""
    batch = make_batch(drop=0.4)
    result = window(network(batch), batch)
    output = network(batch)
    for name, tokens, mask in (("he", output.he, batch.he_mask), ("st", output.st, batch.st_mask)):
        for i in range(3):
            weights = [
                math.exp(-(x**2 + y**2) / (2 * 0.7**2)) * float(there)
                for (x, y), there in zip(batch.offsets.tolist(), mask[i].tolist(), strict=True)
            ]
            mean = sum(w * token for w, token in zip(weights, tokens[i], strict=True)) / sum(weights)
            torch.testing.assert_close(result[name][i], mean, rtol=1e-4, atol=1e-5)
            own = sum(w * token for w, token in zip(weights, getattr(batch, name)[i], strict=True)) / sum(weights)
            torch.testing.assert_close(result[f"{name}_input"][i], own, rtol=1e-4, atol=1e-5)
