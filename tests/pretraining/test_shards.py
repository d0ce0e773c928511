"""Packed sections and the batches that are streamed from them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, random_array

from planted_shards import GENES, HE_DIM, planted_config, planted_corpus, planted_shard
from storm.data.windows import Windows, make_windows
from storm.model import build_storm
from storm.model.masking import draw_visible, hidden_positions
from storm.pretraining.baselines import baseline_losses
from storm.pretraining.config import flatten
from storm.pretraining.distributed import MODALITIES, Objective, epoch_steps, validation_jobs
from storm.pretraining.objective import Masking, masked_loss
from storm.pretraining.prepare import prepare, prepared_library
from storm.pretraining.sections import SectionTensors, TrainingSection
from storm.pretraining.shards import open_shard, write_shard
from storm.pretraining.stream import split_windows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sections of three platforms, pitches and panels, prepared; the run's configuration, model and sections."""
    folder = tmp_path_factory.mktemp("corpus")
    config = planted_config(folder)
    return config, *prepare(config, planted_corpus(folder / "shards"))


# ---------------------------------------------------------------------------------------------- on disk


def test_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(7.0), np.arange(6.0)), -1).reshape(-1, 2) * 100
    windows = make_windows(centres)
    counts = csr_matrix(np.round(random_array((42, 9), density=0.4, rng=rng).toarray() * 300))
    he = rng.normal(size=(42, 5)).astype(np.float32)
    patches = rng.integers(0, 256, size=(42, 8, 8, 3), dtype=np.uint8)
    how = {"centres": centres, "windows": windows, "counts": counts, "genes": list("abcdefghi")}
    write_shard(tmp_path / "s", name="first", **how, he=he[:, :2])
    write_shard(tmp_path / "s", name="s", **how, he=he, patches=patches, facts={"platform": "visium"})
    shard = open_shard(tmp_path / "s")
    assert (shard.name, len(shard), shard.genes) == ("s", 42, list("abcdefghi"))
    assert shard.facts["platform"] == "visium"
    assert (shard.facts["kind"], shard.facts["pitch"]) == ("square", 100)
    np.testing.assert_array_equal(shard.index, windows.index)
    np.testing.assert_array_equal(shard.offsets, windows.offsets)
    np.testing.assert_array_equal(shard.centres, centres)
    np.testing.assert_array_equal(shard.array("he"), he)
    np.testing.assert_array_equal(shard.array("patches"), patches)
    rows = np.array([40, 3, 3, 17])
    np.testing.assert_array_equal(shard.counts(rows).toarray(), counts[rows].toarray())
    assert shard.counts(rows[:0]).shape == (0, 9)
    assert all(isinstance(shard.array(name), np.memmap) for name in ("he", "patches", "index", "counts_data"))
    assert not list(tmp_path.glob("*part"))
    with pytest.raises(KeyError, match=r"no 'x'.*he\.npy"):
        shard.array("x")


def test_a_damaged_shard_is_refused(tmp_path):
    folder = planted_shard(tmp_path, name="s").path
    data = bytearray((folder / "he.npy").read_bytes())
    data[-1] ^= 1
    (folder / "he.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"he\.npy.*damaged"):
        open_shard(folder)
    (folder / "he.npy").unlink()
    with pytest.raises(ValueError, match="missing"):
        open_shard(folder, check=False)
    facts = json.loads((folder / "shard.json").read_text())
    (folder / "shard.json").write_text(json.dumps({**facts, "format": 9}))
    with pytest.raises(ValueError, match="format 9"):
        open_shard(folder)
    with pytest.raises(FileNotFoundError, match="no packed section"):
        open_shard(tmp_path / "none")


def test_what_does_not_fit_is_not_packed(tmp_path):
    centres = np.zeros((3, 2))
    windows = Windows(np.zeros((3, 1), np.int32), np.zeros((1, 2), np.float32), 1.0, "knn")
    with pytest.raises(ValueError, match="nothing to learn"):
        write_shard(tmp_path / "s", name="s", centres=centres, windows=windows)
    with pytest.raises(ValueError, match=r"3 centres.*'he': 2"):
        write_shard(tmp_path / "s", name="s", centres=centres, windows=windows, he=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="one name for each"):
        write_shard(tmp_path / "s", name="s", centres=centres, windows=windows, counts=csr_matrix((3, 2)), genes=["a"])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- batches


def test_held_out_windows_share_no_spot_with_others(tmp_path):
    for kind in ("hex", "square", "cells"):
        shard = planted_shard(tmp_path, name=kind, kind=kind)
        train, validate = split_windows(shard, 0.2)
        assert len(validate) == round(0.2 * len(shard))
        seen = set(shard.index[train].ravel()) & set(shard.index[validate].ravel())
        assert seen <= {-1}
        assert 0.4 * len(shard) < len(train) < 0.8 * len(shard)
    everything, nothing = split_windows(shard, 0)
    assert (len(everything), len(nothing)) == (len(shard), 0)


def test_sections_of_any_platform_and_panel_are_streamed_as_they_are_in_memory(run):
    _, model, sections = run
    assert [s.shard.facts["kind"] for s in sections] == ["hex", "square", "knn"]
    assert [s.shard.index.shape[1] for s in sections] == [25, 25, 9]
    assert sorted(model.vocabulary.symbols) == sorted(GENES)
    assert [int(s.measured().sum()) for s in sections] == [40, 35, 30]
    network = build_storm("tiny", he_dim=HE_DIM, n_genes=40)
    rng = np.random.default_rng(0)
    for section in sections:
        shard = section.shard
        counts = shard.counts(np.arange(len(shard))).toarray()
        total = counts[:, section.library].sum(axis=1, keepdims=True)
        expression = np.zeros((len(shard), 40), np.float32)
        known = np.log1p(counts / np.maximum(total, 1) * 1e4)
        expression[:, section.columns] = known - known.sum(axis=0) / (total > 0).sum()
        memory = SectionTensors(
            TrainingSection(
                shard.name, Windows(np.array(shard.index), np.array(shard.offsets), 1.0, "x"),
                np.array(section.tokens["he"]) if "he" in section.tokens else None, np.array(section.tokens["st"]),
                expression, section.measured(),
            )
        )  # fmt: skip
        rows = rng.permutation(section.train)[:20]
        losses = []
        for source, at in ((memory, torch.from_numpy(rows)), (section.take(rows), torch.arange(20))):
            generator = torch.Generator().manual_seed(3)
            masking = Masking(genes_per_step=17)
            with torch.no_grad():
                losses.append(masked_loss(network, source, at, masking=masking, generator=generator))
        assert losses[0].keys() == losses[1].keys() == ({"he", "st"} if "he" in section.tokens else {"st"})
        for name in losses[0]:
            torch.testing.assert_close(losses[0][name], losses[1][name], rtol=1e-4, atol=1e-6)


def test_tokens_are_those_of_inference(run, tmp_path):
    from storm.data.normalise import standardise

    _, model, sections = run
    shard = sections[0].shard
    raw = model.expression.encode(shard.counts(np.arange(len(shard))), shard.genes)
    st = standardise(raw, model.statistic("st_mean"), model.statistic("st_std"), within=True, isotropic=True)
    np.testing.assert_allclose(sections[0].tokens["st"], st, rtol=1e-4, atol=1e-5)
    assert np.isnan(sections[0].tokens["st"][0]).all()  # the spot without counts
    he = standardise(shard.array("he"), model.statistic("he_mean"), model.statistic("he_std"), within=True, clip=6.0)
    np.testing.assert_array_equal(sections[0].tokens["he"], he)


def test_an_epoch_has_every_window_once_and_masks_of_its_own(run):
    config, _, sections = run
    steps = epoch_steps(sections, config, 0)
    for number, section in enumerate(sections):
        rows = np.concatenate([job.rows for step in steps for job in step if job.section == number])
        np.testing.assert_array_equal(np.sort(rows), section.train)
    assert max(len(step) for step in steps) == 2
    again, other = epoch_steps(sections, config, 0), epoch_steps(sections, config, 1)
    assert [job.seed for step in steps for job in step] == [job.seed for step in again for job in step]
    seeds = [job.seed for epoch in (steps, other) for step in epoch for job in step]
    seeds += [job.seed for job in validation_jobs(sections, config)]
    assert len(set(seeds)) == len(seeds)


def test_losses_are_means_over_the_positions_that_are_counted(run):
    _, _, sections = run
    network = build_storm("tiny", he_dim=HE_DIM, n_genes=40)
    for section in sections:
        batch = section.take(section.train[:32])
        _, _, masks = batch.batch(torch.arange(32))
        for without_he in (False, True):
            if without_he and "he" in masks:  # a place at which no spot lies on the image
                batch.present["he"][:], masks["he"] = False, torch.zeros_like(masks["he"])
            for masking in (Masking(), Masking(he_only=1.0)):
                generator = torch.Generator().manual_seed(1)
                expected = [0, 0]
                only = "he" in masks and torch.rand((), generator=generator).item() < masking.he_only
                for name, present in masks.items():
                    if only:
                        hidden = present if name == "st" else torch.zeros_like(present)
                    else:
                        hidden = hidden_positions(present, *draw_visible(present, 5, generator=generator))
                    expected[MODALITIES.index(name)] = int(hidden.sum())
                losses = masked_loss(
                    network, batch, torch.arange(32), masking=masking, generator=torch.Generator().manual_seed(1)
                )
                sums, counts = Objective(network, masking)([(batch, 1)])
                assert counts.tolist() == expected
                for name, loss in losses.items():
                    at = MODALITIES.index(name)
                    assert sums[at].item() == pytest.approx(loss.item() * expected[at], rel=1e-5)
    sums, counts = Objective(network, Masking())([])
    assert sums.tolist() == counts.tolist() == [0, 0]
    assert sums.requires_grad


def test_nothing_leaks_from_masked_spots(run):
    _, _, sections = run
    for section in sections:
        network = build_storm("tiny", he_dim=HE_DIM, n_genes=40)
        batch = section.take(section.train[50:51])
        for values in batch.values.values():
            values.requires_grad_()
        states = []
        for decoder in network.decoders.values():
            decoder.norm.register_forward_hook(lambda _m, _i, out, states=states: states.append(out))
        Objective(network, Masking())([(batch, 11)])
        generator = torch.Generator().manual_seed(11)
        index, _, masks = batch.batch(torch.arange(1))
        if "he" in masks:
            torch.rand((), generator=generator)
        visible = {}
        for name, present in masks.items():
            slots, shown = draw_visible(present, 5, generator=generator)
            visible[name] = index.gather(1, slots)[shown]
            assert len(visible[name]) == 5
        for state in states:
            # Weighted, because the plain sum over a normalised state is a constant.
            said = (state.square() * torch.arange(state.shape[-1])).sum()
            grads = torch.autograd.grad(said, list(batch.values.values()), retain_graph=True)
            for name, grad in zip(batch.values, grads, strict=True):
                touched = grad.abs().sum(dim=1) > 0
                assert set(touched.nonzero().flatten().tolist()) == set(visible[name].tolist())
                hidden = torch.ones(len(grad), dtype=torch.bool).index_fill(0, visible[name], False)
                assert hidden.sum() > 0
                assert (grad[hidden] == 0).all()


def test_baselines_are_what_they_say(run):
    _, _, sections = run
    section = sections[0]
    batch = section.take(section.validate[:16])
    found = baseline_losses([(batch, 5)], Masking())
    index, offsets, masks = batch.batch(torch.arange(16))
    generator = torch.Generator().manual_seed(5)
    torch.rand((), generator=generator)
    for name in masks:
        if name == "he":
            values = batch.values["he"].numpy()
        else:
            values = batch.expression[torch.arange(len(batch.spots)).unsqueeze(1), torch.arange(40)].numpy()
        slots, shown = draw_visible(masks[name], 5, generator=generator)
        mean, nearest = [], []
        for window in range(16):
            seen = slots[window][shown[window]].tolist()
            for slot in range(25):
                if not masks[name][window, slot] or slot in seen:
                    continue
                truth = values[index[window, slot]]
                distance = [np.linalg.norm(offsets[window, slot] - offsets[window, s]) for s in seen]
                at = [index[window, s] for s, d in zip(seen, distance, strict=True) if d < min(distance) + 1e-4]
                mean.append(0.5 * np.mean(truth**2))
                nearest.append([0.5 * np.mean((truth - values[i]) ** 2) for i in at])
        assert found[f"{name}_mean"] == pytest.approx(np.mean(mean), rel=1e-4)
        assert np.mean([min(n) for n in nearest]) <= found[f"{name}_nearest"] <= np.mean([max(n) for n in nearest])


# ---------------------------------------------------------------------------------------------- preparation


def test_another_configuration_does_not_go_on_with_a_run(run, tmp_path):
    config, _, sections = run
    shards = [section.shard for section in sections]
    assert len(prepare(config.changed(devices="auto", checkpoint_steps=7), shards)[1]) == 3
    with pytest.raises(ValueError, match=r"another configuration \(lr: 0.003 there, 0.01 here\)"):
        prepare(config.changed(lr=0.01), shards)
    # Prepared by a version that did not have some of the fields: it did what their defaults say.
    path = tmp_path / "run" / "prepared.json"
    shutil.copytree(config.run.out, path.parent)
    facts = json.loads(path.read_text())
    facts["config"] = flatten(facts["config"])  # as version 0.1.0 wrote it
    for name in ("train_tiles", "crop_area", "spatial_encoder"):
        del facts["config"][name]
    path.write_text(json.dumps(facts))
    older = config.changed(out=str(path.parent))
    assert len(prepare(older, shards)[1]) == 3
    with pytest.raises(ValueError, match=r"crop_area: 0\.5 there, 0\.7 here"):
        prepare(older.changed(crop_area=0.7), shards)


def test_a_corpus_that_teaches_nothing_is_named(tmp_path):
    shards = planted_corpus(tmp_path / "shards")
    with pytest.raises(ValueError, match="'nobody'"):
        prepare(planted_config(tmp_path, validation_sections=("nobody",)), shards)
    with pytest.raises(ValueError, match=r"several sections.*'bins'"):
        prepare(planted_config(tmp_path), [*shards, shards[1]])
    with pytest.raises(ValueError, match="packed with 89 numbers a tile"):
        prepare(planted_config(tmp_path, tile_encoder="timm:resnet10t", tile_init="random"), shards)
    with pytest.raises(ValueError, match="has none"):
        prepare(planted_config(tmp_path, tile_init="random"), shards)
    windows = make_windows(np.array(shards[0].centres))
    # H&E alone, as it is, teaches something; but not what a raw vector of genes says, nor what has no neighbour.
    bare = write_shard(
        tmp_path / "shards" / "bare", name="bare", centres=shards[0].centres, windows=windows,
        he=np.zeros((len(windows), HE_DIM)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="expression='hvg', but no section to train on has counts"):
        prepare(planted_config(tmp_path, expression="hvg"), [bare])
    with pytest.raises(ValueError, match="window=1 rebuilds expression from H&E"):
        prepare(planted_config(tmp_path, window=1), [bare])
    with pytest.raises(ValueError, match="spatial_encoder=false, but no section to train on has an image"):
        prepare(planted_config(tmp_path, spatial_encoder=False), [shards[1]])
    # Held-out sections do not count.
    config = planted_config(tmp_path, validation_sections=tuple(shard.name for shard in shards))
    with pytest.raises(ValueError, match="no section to train on has counts or H&E"):
        prepare(config, shards)


def test_panels_are_normalised_over_their_common_genes(run, tmp_path):
    """The corpus has panels of 40, 35 and 30 genes, 25 of them in common; targets of a shared gene are comparable."""
    config, model, sections = run
    common = sorted(GENES[5:30])
    assert prepared_library(config) == "25 common genes"
    assert model.expression.library.genes == tuple(common)
    for section in sections:
        names = np.array(section.shard.genes)
        np.testing.assert_array_equal(section.library, np.isin(names, common))
        rows = section.train[:5]
        batch = section.take(rows)
        counts = section.shard.counts(batch.spots).toarray()
        expected = np.log1p(counts / counts[:, section.library].sum(axis=1, keepdims=True).clip(min=1) * 1e4)
        at = torch.arange(len(batch.spots)).unsqueeze(1)
        targets = batch.expression[at, torch.from_numpy(section.columns)].numpy()
        np.testing.assert_allclose(targets, expected - section.mean[section.columns], atol=1e-4)
    own = config.changed(library="own", out=str(tmp_path / "own"))
    _, sections = prepare(own, [section.shard for section in sections])
    assert prepared_library(own) == "all genes"
    assert all(section.library is None for section in sections)


def test_panels_with_too_little_in_common_are_refused(tmp_path):
    shards = [
        planted_shard(tmp_path / "shards", name="one", genes=slice(0, 25)),
        planted_shard(tmp_path / "shards", name="two", genes=slice(10, 40), seed=1),
    ]
    with pytest.raises(ValueError, match=r"have 15 genes in common, too few .*set library = 'own'"):
        prepare(planted_config(tmp_path), shards)
