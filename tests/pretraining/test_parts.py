"""Masks, densities and the head's loss against independent formulas."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array

from storm.data import rows as storm_rows
from storm.data.windows import make_windows
from storm.model import build_storm
from storm.model.heads import expression_loss
from storm.model.masking import draw_visible, hidden_positions
from storm.pretraining.config_groups import OptimiserConfig
from storm.pretraining.factors import Panel, choose_genes, fit_factors
from storm.pretraining.fit import fit
from storm.pretraining.head import HeadConfig, apply_head, fit_head
from storm.pretraining.head_choice import choose_head
from storm.pretraining.held_out import evaluate, hold_out, mean_predictor
from storm.pretraining.losses import gaussian_nll, negative_binomial_nll
from storm.pretraining.objective import Masking, masked_loss
from storm.pretraining.optimise import make_optimiser, make_schedule
from storm.pretraining.ridge import PENALTIES, HeldOut, RidgePath
from storm.pretraining.sections import SectionTensors, TrainingSection


def test_visible_spots_are_drawn_among_those_present():
    g = torch.Generator().manual_seed(0)
    present = torch.rand(200, 25, generator=g) > 0.5
    present[0] = False
    present[1] = False
    present[1, 7] = True
    index, shown = draw_visible(present, 5, generator=g)
    hidden = hidden_positions(present, index, shown)
    visible = torch.zeros_like(present).scatter_(1, index, shown)
    assert not (visible & ~present).any()
    assert ((visible | hidden) == present).all()
    assert (visible & hidden).sum() == 0
    assert (visible.sum(1) == torch.clamp(present.sum(1) - 1, min=0, max=5)).all()
    frequency = draw_visible(torch.ones(20000, 25, dtype=torch.bool), 5, generator=g)[0].flatten().bincount() / 20000
    assert frequency.min() > 0.18
    assert frequency.max() < 0.22


def test_gaussian_loss_is_half_the_mean_square_over_what_was_measured():
    g = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(6, 4, generator=g), torch.randn(6, 4, generator=g)
    measured = torch.tensor([True, False, True, True])
    masked = torch.tensor([True, True, False, True, False, True])
    target[:, 1] = torch.nan
    expected = np.mean(
        [0.5 * np.mean((prediction[i, [0, 2, 3]] - target[i, [0, 2, 3]]).numpy() ** 2) for i in (0, 1, 3, 5)]
    )
    assert gaussian_nll(prediction, target, measured, masked).item() == pytest.approx(expected, rel=1e-6)
    everything = torch.ones((), dtype=torch.bool)
    assert gaussian_nll(prediction, target.nan_to_num(), everything, masked).item() < 5
    assert gaussian_nll(prediction, target, measured, torch.zeros(6, dtype=torch.bool)).item() == 0


def test_negative_binomial_equals_torch():
    g = torch.Generator().manual_seed(0)
    logits, counts = torch.randn(5, 7, generator=g), torch.randint(0, 30, (5, 7), generator=g).float()
    log_r = torch.randn(7, generator=g)
    measured = torch.tensor([True, True, False, True, True, True, False])
    masked = torch.tensor([True, False, True, True, True])
    keep = measured.nonzero().squeeze(1)
    share = logits[:, keep].softmax(-1)
    mean = share * counts[:, keep].sum(-1, keepdim=True)
    r = log_r[keep].exp()
    reference = torch.distributions.NegativeBinomial(r, logits=(mean / r).log()).log_prob(counts[:, keep])
    expected = -reference.mean(-1)[masked].mean()
    found = negative_binomial_nll(logits, counts, log_r, measured, masked)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_expression_loss_is_equation_4():
    y = torch.tensor([[1.0, 2.0], [0.0, torch.nan]])
    p = torch.tensor([[0.0, 4.0], [0.5, 9.0]])
    errors = np.array([1.0, 2.0, 0.5])
    assert expression_loss(p, y, l1=2.0, l2=3.0).item() == pytest.approx((2 * errors + 3 * errors**2).mean())


def planted_section(n: int = 12, *, seed: int = 0, he: bool = True) -> TrainingSection:
    """A square lattice on which everything follows two smooth fields."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2).astype(float)
    fields = np.stack([np.sin(xy[:, 0] / 2.5 + seed), np.cos(xy[:, 1] / 2.0)], 1)
    mix = np.random.default_rng(7)
    maps = {d: mix.normal(size=(2, d)) for d in (16, 8, 30)}
    noisy = {d: (fields @ m + 0.3 * rng.normal(size=(len(xy), d))).astype(np.float32) for d, m in maps.items()}
    measured = np.ones(30, bool)
    return TrainingSection(f"s{seed}", make_windows(xy), noisy[16] if he else None, noisy[8], noisy[30], measured)


def test_masked_spots_are_rebuilt_better_than_by_the_mean():
    sections = [planted_section(seed=0), planted_section(seed=1, he=False)]
    torch.manual_seed(0)
    network = build_storm("tiny", n_genes=30)
    config = OptimiserConfig(epochs=60, warmup_epochs=2, batch_size=64, lr=3e-3)
    history = fit(network, sections, config, masking=Masking(genes_per_step=20, he_only=0.2))
    assert history[-1]["st"] < 0.5 * history[0]["st"]
    unseen = SectionTensors(planted_section(seed=2))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        loss = masked_loss(network, unseen, torch.arange(144), masking=Masking(), generator=g)
    mean_predictor = 0.5 * unseen.expression.var(dim=0, correction=0).mean()
    assert loss["st"] < 0.6 * mean_predictor
    assert loss["he"] < 0.6 * 0.5 * unseen.values["he"].var(dim=0, correction=0).mean()


def test_training_is_reproducible():
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_storm("tiny", n_genes=30)
        fit(network, [planted_section()], OptimiserConfig(epochs=2, warmup_epochs=1, batch_size=64, lr=1e-3))
        runs.append(network.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_fit_refuses_what_cannot_learn():
    with pytest.raises(ValueError, match="decoders"):
        fit(build_storm("tiny", decoder_depth=0), [planted_section()], OptimiserConfig(epochs=1, warmup_epochs=0))
    with pytest.raises(ValueError, match="epochs=0 must be a whole number of at least 1"):
        fit(build_storm("tiny", n_genes=30), [planted_section()], OptimiserConfig(epochs=0))


@pytest.mark.parametrize("where", ["he", "st", "weights"])
def test_a_training_that_diverges_ends_with_an_error(where):
    section = planted_section()
    torch.manual_seed(0)
    network = build_storm("tiny", n_genes=30)
    config = OptimiserConfig(epochs=2, warmup_epochs=0, batch_size=64, lr=1e-3)
    if where == "weights":
        # No spot has H&E: its projection is not part of the loss, and would be handed on as it is.
        section = replace(section, he=None)
        with torch.no_grad():
            network.project["he"].weight.fill_(torch.nan)
        message = r"diverged: project\.he\.weight has weights that are not finite after epoch 0.*lr=0\.001"
    else:
        with torch.no_grad():
            network.decoders[where].out.bias.fill_(1e30)
        message = f"diverged: the loss of {'H&E' if where == 'he' else 'expression'} is inf in epoch 0.*lr=0\\.001"
    with pytest.raises(ValueError, match=message):
        fit(network, [section], config)


def test_a_warm_up_is_rounded_to_the_nearest_step():
    section = planted_section()  # 144 windows, 3 steps an epoch
    torch.manual_seed(0)
    network = build_storm("tiny", n_genes=30)
    config = OptimiserConfig(epochs=2, warmup_epochs=0.6, batch_size=64, lr=1e-3)
    history = fit(network, [section], config)
    # Two steps of warm-up and not one, so that the third of six steps is the first at the full rate.
    assert history[0]["lr"] == pytest.approx(1e-3)
    optimiser = make_optimiser(network, config)
    schedule = make_schedule(optimiser, config, 3)
    schedule.step_update(5)
    assert history[1]["lr"] == optimiser.param_groups[0]["lr"]


def test_factors_are_panel_agnostic():
    rng = np.random.default_rng(0)
    loadings = np.linalg.qr(rng.normal(size=(200, 4)))[0] * [12, 9, 7, 5]
    z = rng.normal(size=(400, 4))
    x = (z @ loadings.T + 0.2 * rng.normal(size=(400, 200))).astype(np.float32)
    everything = np.ones(200, bool)
    encoder = fit_factors([(x[:200], everything), (x[200:], everything)], 4)
    full = encoder(torch.from_numpy(x), torch.arange(200)).numpy()
    panel = np.sort(rng.choice(200, 80, replace=False))
    part = encoder(torch.from_numpy(x[:, panel]), torch.from_numpy(panel)).numpy()
    for k in range(4):
        assert np.corrcoef(full[:, k], part[:, k])[0, 1] > 0.97
    assert np.abs(full - part).mean() < 0.15 * np.abs(full).mean()
    # and the factors span the planted ones
    fit_r2 = 1 - np.square(z - full @ np.linalg.lstsq(full, z, rcond=None)[0]).mean() / np.square(z).mean()
    assert fit_r2 > 0.98


def test_vocabulary_and_case():
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    human = Panel(
        csr_matrix(np.column_stack([rng.normal(size=50) * s for s in (5, 1, 0.1)])), np.array(["ACTB", "EPCAM", "X"])
    )
    mouse = Panel(csr_matrix(np.column_stack([rng.normal(size=40) * s for s in (4, 0.1)])), np.array(["Penk", "Actb"]))
    assert choose_genes([([human], 2), ([mouse], 1)]) == ["ACTB", "EPCAM", "PENK"]
    values, measured = mouse.over(["ACTB", "EPCAM", "PENK"])
    assert measured.tolist() == [True, False, True]
    np.testing.assert_allclose(values[:, 2], mouse.expression.toarray()[:, 0], rtol=1e-6)


def test_head_learns_a_planted_map_and_is_reproducible():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 10)).astype(np.float32)
    y = (x @ rng.normal(size=(10, 6)) + 3).astype(np.float32)
    head = fit_head(x[:500], y[:500], HeadConfig(penalty=1.0, epochs=60, lr=5e-3, dropout=0.2))
    with torch.no_grad():
        found = head(torch.from_numpy(x[500:])).numpy()
    assert min(np.corrcoef(found[:, j], y[500:, j])[0, 1] for j in range(6)) > 0.95
    again = fit_head(x[:500], y[:500], HeadConfig(penalty=1.0, epochs=60, lr=5e-3, dropout=0.2))
    assert torch.equal(head.linear.weight, again.linear.weight)


def test_ridge_weights_are_those_of_the_normal_equations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 3, size=(40, 6)), rng.normal(size=(40, 3))
    path = RidgePath.fit(x, y)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    wanted = np.linalg.solve(z.T @ z + 0.3 * 40 * np.eye(6), z.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(path.weights(0.3), wanted, atol=1e-10)
    head = fit_head(x, y, HeadConfig(penalty=0.3, epochs=0))
    np.testing.assert_allclose(apply_head(head, x.astype(np.float32)), path.predict(x, path.weights(0.3)), atol=1e-5)
    with pytest.raises(ValueError, match="penalty=None"):
        fit_head(x, y, HeadConfig())


def test_held_out_errors_need_no_predictions():
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 3, size=(60, 6)), rng.poisson(0.5, size=(60, 9)).astype(np.float32)
    path = RidgePath.fit(x[:40], csr_matrix(y[:40]))
    np.testing.assert_allclose(path.weights(0.3), RidgePath.fit(x[:40], y[:40]).weights(0.3))
    for rows in (slice(40, 60), slice(40, 44)):  # more spots than features, and fewer
        held, weights = HeldOut(path, x[rows], csr_matrix(y[rows])), path.weights(0.3)
        assert held.total == pytest.approx(np.square(y[rows] - path.offset).sum())
        along, own = held.moments(weights)
        for scale in (0.5, 1.0, 2.0):
            wanted = np.square(y[rows] - path.predict(x[rows], scale * weights)).sum()
            assert held.total * (1 - 2 * scale * along + scale**2 * own) == pytest.approx(wanted)


def test_a_whole_transcriptome_is_never_dense(monkeypatch):
    rng = np.random.default_rng(0)
    n, n_genes = 600, 20_000
    x = rng.normal(size=(n, 8)).astype(np.float32)
    y = random_array((n, n_genes), density=0.01, rng=rng, format="csr", dtype=np.float32)
    folds = [(np.delete(np.arange(n), part), part) for part in np.array_split(np.arange(n), 3)]
    monkeypatch.setattr(storm_rows, "_IN_MEMORY", 0)
    tracemalloc.start()
    chosen, found = choose_head(x, csr_matrix(y), folds, HeadConfig(epochs=0))
    fit_head(x, csr_matrix(y), chosen)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, np.memmap)
    assert peak < 0.7 * n * n_genes * 8


def test_a_head_is_as_bold_as_held_out_spots_allow():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 20)).astype(np.float32)
    weights, noise = rng.normal(size=(20, 5)), rng.normal(size=(400, 5))
    folds = [(np.delete(np.arange(400), part), part) for part in np.array_split(np.arange(400), 4)]
    clear, penalties = x @ weights, {}
    for name, y in {"clear": clear, "noisy": clear + 12 * noise, "nothing": noise}.items():
        chosen, found = choose_head(x, y, folds, HeadConfig(keep=1, epochs=0))
        assert found.shape == (400, 5)
        assert np.isfinite(found).all()
        penalties[name] = chosen.penalty
    assert penalties["clear"] == min(PENALTIES) < penalties["noisy"] < penalties["nothing"]
    careful, _ = choose_head(x, clear + 12 * noise, folds, HeadConfig(keep=0.7, epochs=0))
    assert careful.penalty > penalties["noisy"]
    # What no linear head can say is worth gradient training.
    crossed = np.tanh(x[:, :5]) * np.sign(x[:, 5:10]) * 3
    bold, found = choose_head(x, crossed, folds, HeadConfig(lr=2e-2, dropout=0.0, hidden=128, weight_decay=0.0))
    assert bold.epochs == 10
    assert np.corrcoef(found.ravel(), crossed.ravel())[0, 1] > 0.3
    given, _ = choose_head(x, clear, folds, HeadConfig(penalty=5.0, epochs=1))
    assert (given.penalty, given.epochs) == (5.0, 1)


def test_with_patients_the_head_is_the_best_on_them_at_its_own_scale():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 20)).astype(np.float32)
    # One direction is shared; each patient has others of its own, which a bold head takes for the same.
    shared, patient = rng.normal(size=(20, 30)), np.repeat([0, 1], 200)
    own = 1.5 * rng.normal(size=(2, 20, 30))
    y = x @ shared + np.einsum("nf,nfg->ng", x, own[patient]) + 8 * rng.normal(size=(400, 30))
    folds = [(np.flatnonzero(patient != k), np.flatnonzero(patient == k)) for k in (0, 1)]

    def error(found):
        return np.square(y - found).sum()

    sections, cautious = choose_head(x, y, folds, HeadConfig(epochs=0))
    patients, best = choose_head(x, y, folds, HeadConfig(epochs=0), patients=True)
    assert (sections.keep, sections.scale) == (0.7, 1)
    assert patients.keep == 1
    assert patients.scale != 1
    assert error(best) < error(cautious)
    # No factor on the chosen predictions is better, and the trained head carries it.
    means = np.concatenate([np.tile(y[train].mean(axis=0), (200, 1)) for train, _ in folds])
    assert all(error(best) <= error(means + k * (best - means)) for k in (0.9, 1.1))
    head = fit_head(x, y, patients)
    path = RidgePath.fit(x, y)
    wanted = path.predict(x, patients.scale * path.weights(patients.penalty))
    np.testing.assert_allclose(apply_head(head, x), wanted, atol=1e-4)
    asked, _ = choose_head(x, y, folds, HeadConfig(epochs=0, penalty=1.0), patients=True)
    assert (asked.penalty, asked.scale) == (1.0, 1.0)
    asked, _ = choose_head(x, y, folds, HeadConfig(epochs=0, keep=0.5, scale=2.0), patients=True)
    assert (asked.keep, asked.scale) == (0.5, 2.0)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": -1},
        {"penalty": 0},
        {"scale": 0},
        {"keep": 0},
        {"keep": 1.1},
        {"batch_size": 1.5},
        {"hidden": -1},
        {"lr": 0},
        {"dropout": 1},
        {"l1": -1},
        {"l1": 0, "l2": 0},
    ],
    ids=str,
)
def test_head_config_names_what_is_wrong(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))}={next(iter(values.values()))!r}"):
        HeadConfig(**values)


def test_the_block_is_contiguous_and_has_a_gap():
    xy = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2).astype(float)
    xy[7] = np.nan
    train, block = hold_out(xy, share=0.15, gap=1.01, seed=3)
    assert block.sum() == 60
    distance = np.linalg.norm(xy[train][:, None] - xy[block][None], axis=-1)
    assert distance.min() > 1.01
    assert not train[7]
    assert not block[7]
    # All that lies as near to the middle as the furthest spot of the block belongs to it.
    middle = xy[block].mean(axis=0)
    assert np.linalg.norm(xy[block] - middle, axis=1).max() < 7
    again = hold_out(xy, share=0.15, gap=1.01, seed=3)
    assert (again[1] == block).all()
    assert (hold_out(xy, share=0.15, gap=1.01, seed=4)[1] != block).any()


def test_a_part_of_a_section_holds_nothing_of_the_rest():
    section = planted_section()
    keep = np.arange(144) % 12 < 5
    part = section.only(keep)
    index = part.windows.index
    assert set(np.unique(index)) == {-1, *np.flatnonzero(keep)}
    assert (index[~keep] == -1).all()
    np.testing.assert_array_equal(SectionTensors(part).rows(), np.flatnonzero(keep))
    both = section.windows.index >= 0
    assert (index[keep] >= 0).sum() == (keep[section.windows.index] & both)[keep].sum()


def test_the_best_epoch_is_kept_and_the_mean_is_the_mean():
    whole = planted_section()
    train, block = whole.only(np.arange(144) < 84), whole.only(np.arange(144) >= 108)
    torch.manual_seed(0)
    network = build_storm("tiny", n_genes=30)
    config = OptimiserConfig(epochs=25, warmup_epochs=1, batch_size=32, lr=2e-2)
    history = fit(network, [train], config, patience=4, validation=[block])
    losses = [record["val_st"] + record["val_he"] for record in history]
    assert len(history) == min(25, int(np.argmin(losses)) + 5)
    again = evaluate(network, [SectionTensors(block)], masking=Masking())
    assert sum(again.values()) == pytest.approx(min(losses), rel=1e-5)
    plain = evaluate(mean_predictor(network, [SectionTensors(train)]), [SectionTensors(block)], masking=Masking())
    assert again["st"] < plain["st"]
    seen = whole.expression[:84].mean(axis=0)
    error = 0.5 * np.square(whole.expression[108:] - seen).mean(axis=1)
    assert error.min() < plain["st"] < error.max()
    assert plain["st"] == pytest.approx(error.mean(), rel=0.05)


@pytest.mark.parametrize("name", ["he", "st"])
def test_a_section_of_one_modality_trains(name):
    section = planted_section()
    lacking = {"st": None, "expression": None, "measured": None} if name == "he" else {"he": None}
    torch.manual_seed(0)
    network = build_storm("tiny", n_genes=30)
    config = OptimiserConfig(epochs=5, warmup_epochs=1, batch_size=64, lr=3e-3)
    history = fit(network, [replace(section, **lacking)], config, masking=Masking(he_only=0.5))
    assert history[-1][name] < history[0][name]
    assert {"he", "st"} - set(history[0]) == {"he", "st"} - {name}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 1e30}, r"lr=1e\+30 is above 1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"keep": 0}, "keep=0 must be above 0"),
        ({"keep": "all"}, "keep='all' must be a number"),
        ({"dropout": 1}, "dropout=1 must be at least 0 and below 1"),
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"hidden": 0}, "hidden=0"),
        ({"seed": "a"}, "seed='a'"),
        ({"l1": float("nan")}, "l1=nan"),
        ({"l1": 0, "l2": 0}, "leave no loss"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_train_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        HeadConfig(**values)


def test_a_head_whose_training_diverges_is_an_error():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    y[0, 0] = 1e30  # its square is not a float32
    with pytest.raises(ValueError, match=r"diverged: the loss of the head is inf in epoch 0.*lr=0\.0005"):
        fit_head(x, y, HeadConfig(penalty=1.0, epochs=1))
