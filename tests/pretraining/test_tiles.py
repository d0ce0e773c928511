"""Parts of end-to-end training: augmentation, layers of tile encoders, the tile encoder inside the step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from planted_tiles import SmallNet, small_net, tile_config, tile_corpus, tile_shard
from storm.data.normalise import standardise
from storm.encoders import get_encoder
from storm.encoders.vit import PooledViT
from storm.model import build_storm
from storm.pretraining.augment import Augmentation, sample
from storm.pretraining.distributed import Job, Objective
from storm.pretraining.layers import tile_layers
from storm.pretraining.objective import Masking, draw_masks
from storm.pretraining.optimise import lr_scales, make_optimiser, make_schedule
from storm.pretraining.prepare import prepare
from storm.pretraining.reader import Reader
from storm.pretraining.start import tile_encoder_of
from storm.pretraining.tiles import TileTokens, trainable


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two sections with H&E and one without, prepared; the run's configuration, model and sections."""
    config = tile_config(tmp_path_factory.mktemp("corpus"))
    return config, *prepare(config, tile_corpus(config))


def tokens_of(config, model, sections, **how) -> TileTokens:
    info = tile_encoder_of(config)
    mean, std = (torch.from_numpy(model.statistic(f"he_{what}")) for what in ("mean", "std"))
    names = [section.name for section in sections]
    tiles = TileTokens(info, info.build(), names, mean=mean, std=std, **how)
    tiles.start(sections)
    return tiles


# ---------------------------------------------------------------------------------------------- augmentation


def test_crops_are_crops_and_flips_are_flips():
    how = Augmentation(area=0.3, ratio=1.5)
    maps = how.draw(4000, generator=torch.Generator().manual_seed(0))
    side = maps[:, [0, 1], [0, 1]]
    assert ((side < 0).float().mean(dim=0) - 0.5).abs().max() < 0.03
    side = side.abs()
    assert side.max() <= 1
    assert side.prod(dim=1).min() > 0.3 - 0.05  # the longer side may be the tile's
    assert (side[:, 0] / side[:, 1]).log().abs().max() <= np.log(1.5) + 1e-6
    centre = maps[:, :, 2]
    assert (centre.abs() + side).max() <= 1 + 1e-6
    assert centre.mean(dim=0).abs().max() < 0.02
    tiles = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    same, turned = torch.eye(2, 3).repeat(2, 1, 1), torch.eye(2, 3).repeat(2, 1, 1)
    turned[:, 0, 0] = -1
    torch.testing.assert_close(sample(tiles, same), tiles, atol=1e-6, rtol=0)
    torch.testing.assert_close(sample(tiles, turned), tiles.flip(3), atol=1e-6, rtol=0)
    # A crop of the upper left quarter of a picture of its own coordinates.
    x = (torch.arange(8.0) + 0.5) / 4 - 1
    picture = torch.stack([x.expand(8, 8), x[:, None].expand(8, 8), torch.zeros(8, 8)])[None]
    quarter = sample(picture, torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]]))
    torch.testing.assert_close(quarter[0, 0, 0, 1:], (x * 0.5 - 0.5)[1:])
    torch.testing.assert_close(quarter[0, 1, 1:, 0], (x * 0.5 - 0.5)[1:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sample(tiles, turned), tiles.flip(3), atol=1e-6, rtol=0)


def test_what_is_switched_off_is_not_done():
    assert not Augmentation(area=1.0, flips=False).changes
    maps = Augmentation(area=1.0, flips=True).draw(50, generator=torch.Generator().manual_seed(0))
    assert (maps[:, [0, 1], [0, 1]].abs() == 1).all()
    assert (maps[:, :, 2] == 0).all()
    assert (Augmentation(flips=False).draw(50, generator=torch.Generator())[:, [0, 1], [0, 1]] > 0).all()


def test_augmentation_changes_the_visible_tiles_and_nothing_else(run):
    _, _, sections = run
    section, rows = sections[0], sections[0].train[:16]
    plain, other = (
        Reader(sections, Masking(), augmentation=how, pixels=True)(Job(0, rows, 5))[0] for how in (None, Augmentation())
    )
    assert plain.tiles.maps is None
    assert other.tiles.maps.shape == (len(other.tiles.rows), 2, 3)
    for name in plain.values:
        assert torch.equal(plain.values[name], other.values[name])
    assert (plain.expression.expression != other.expression.expression).nnz == 0
    assert torch.equal(plain.index, other.index)
    assert torch.equal(plain.offsets, other.offsets)
    assert torch.equal(plain.tiles.rows, other.tiles.rows)
    assert torch.equal(plain.tiles.pixels, other.tiles.pixels)
    stored = section.shard.array("patches")[plain.spots[plain.tiles.rows.numpy()]]
    np.testing.assert_array_equal(plain.tiles.pixels.numpy(), stored)
    again = Reader(sections, Masking(), augmentation=Augmentation(), pixels=True)(Job(0, rows, 5))[0]
    assert torch.equal(again.tiles.maps, other.tiles.maps)
    unlike = Reader(sections, Masking(), augmentation=Augmentation(), pixels=True)(Job(0, rows, 6))[0]
    assert not torch.equal(unlike.tiles.maps[:5], other.tiles.maps[:5])
    # The pixels that are read are those of the spots that the objective shows.
    generator = torch.Generator().manual_seed(5)
    draw = draw_masks(plain, torch.arange(16), masking=Masking(), generator=generator)
    slots, shown = draw.visible["he"]
    assert set(plain.tiles.rows.tolist()) == set(draw.index.gather(1, slots)[shown].tolist())
    assert sections[2].take(sections[2].train[:4]).read_tiles(Masking(), 5, augmentation=None).tiles is None


# ---------------------------------------------------------------------------------------------- the encoder in the step


@pytest.mark.parametrize("chunk", [0, 7])
def test_masked_tiles_get_no_gradient_and_visible_ones_do(run, chunk):
    config, model, sections = run
    tiles = tokens_of(config, model, sections, chunk=chunk).train()
    torch.manual_seed(0)
    network = build_storm("tiny", he_dim=64, st_dim=8, n_genes=40)
    reader = Reader(sections, Masking(), augmentation=Augmentation(), pixels=True)
    batch, seed = reader(Job(0, sections[0].train[20:21], 3))
    # All tiles of the section go in, as a leaf with gradients; the reader has said which of them are visible.
    everything = torch.from_numpy(np.array(sections[0].shard.array("patches"))).float().requires_grad_()
    visible = batch.spots[batch.tiles.rows.numpy()]
    batch.tiles = replace(batch.tiles, pixels=everything[torch.from_numpy(visible)])
    sums, counts = Objective(network, Masking(), tiles)([(batch, seed)])
    assert (counts > 0).all()
    for at in range(2):  # each modality's loss by itself
        (grad,) = torch.autograd.grad(sums[at], everything, retain_graph=True)
        touched = grad.flatten(1).abs().sum(dim=1) > 0
        assert touched.nonzero().flatten().tolist() == visible.tolist()
        assert len(visible) == 5
        assert (grad[~touched] == 0).all()
    sums.sum().backward()
    assert not [name for name, p in tiles.module.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_recomputed_activations_give_the_same_gradients(run):
    config, model, sections = run
    batch = Reader(sections, Masking(), augmentation=Augmentation(), pixels=True)(Job(0, sections[0].train[:8], 3))
    grads = []
    for chunk in (0, 9):
        tiles = tokens_of(config, model, sections, chunk=chunk).train()
        torch.manual_seed(0)
        network = build_storm("tiny", he_dim=64, st_dim=8, n_genes=40)
        Objective(network, Masking(), tiles)([batch])[0].sum().backward()
        grads.append([p.grad for p in tiles.module.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_tokens_at_the_start_are_those_of_the_frozen_encoder(run):
    """And after a refresh those of inference with the encoder as it is then."""
    config, model, sections = run
    tiles = tokens_of(config, model, sections).train()
    assert not any(part.training for part in tiles.module.modules())
    reader = Reader(sections, Masking(), augmentation=None, pixels=True)
    for moved in (False, True):
        if moved:
            with torch.no_grad():
                for parameter in tiles.module.parameters():
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
            how = {"number": 100, "seed": 0, "rank": 0, "world": 1, "total": lambda values: values}
            tiles.refresh(sections, **how)
        for at in range(2):
            batch, _ = reader(Job(at, sections[at].train[:16], 3))
            with torch.no_grad():
                table = tiles(batch.tiles, len(batch.spots), sections[at].name)
                raw = tiles.embed(torch.from_numpy(np.array(sections[at].shard.array("patches")))).numpy()
            raw[1] = np.nan
            expected = standardise(raw, tiles.mean.numpy(), tiles.std.numpy(), within=True, clip=6.0)
            rows = batch.tiles.rows
            np.testing.assert_allclose(table[rows].numpy(), expected[batch.spots[rows.numpy()]], atol=2e-3)
            hidden = torch.ones(len(table), dtype=torch.bool).index_fill(0, rows, False)
            assert (table[hidden] == 0).all()
            # The target is the frozen encoder's embedding, whatever the encoder has become.
            packed = sections[at].tokens["he"][batch.spots]
            np.testing.assert_array_equal(batch.values["he"].numpy(), np.nan_to_num(packed))
            same = np.abs(table[rows].numpy() - np.nan_to_num(packed)[rows.numpy()]).max() < 2e-3
            assert same != moved
    # Two processes that look at a section each come to the same numbers.
    alone = {name: buffer.clone() for name, buffer in tiles.named_buffers()}
    parts = []

    def first(values):
        parts.append(values)
        return values

    for rank in (0, 1):
        tiles.refresh(sections, **(how | {"rank": rank, "world": 2, "total": first}))
    tiles.refresh(sections, **(how | {"total": lambda _: parts[0] + parts[1]}))
    for name, buffer in tiles.named_buffers():
        torch.testing.assert_close(buffer, alone[name], msg=name)


# ---------------------------------------------------------------------------------------------- layers


def test_layers_of_a_transformer_are_timms():
    module = PooledViT(timm.create_model("test_vit", num_classes=0, global_pool=""), pooling="cls")
    layers = tile_layers(module)
    assert layers.keys() == dict(module.named_parameters()).keys()
    assert {layers[f"backbone.{name}"] for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {0}
    assert [layers[f"backbone.blocks.{i}.mlp.fc1.weight"] for i in range(6)] == [1, 2, 3, 4, 5, 6]
    assert layers["backbone.norm.weight"] == 6
    # the same as timm's own helper says
    from timm.optim import param_groups_layer_decay

    theirs = {
        id(p): group["lr_scale"]
        for group in param_groups_layer_decay(module.backbone, layer_decay=0.7)
        for p in group["params"]
    }
    for name, parameter in module.named_parameters():
        assert 0.7 ** (6 - layers[name]) == pytest.approx(theirs[id(parameter)]), name


def test_layers_of_the_papers_encoder():
    with torch.device("meta"):
        module = get_encoder("h0-mini").architecture()
        network = build_storm("base", n_genes=5)
    scales = {}
    for over in ("tiles", "all"):
        found = lr_scales(network, module, decay=0.7, over=over)
        scales[over] = {f"tiles.{name}": found[p] for name, p in module.named_parameters()}
        scales[over] |= {name: found[p] for name, p in network.named_parameters()}
    stem, last = "tiles.backbone.patch_embed.proj.weight", "tiles.backbone.blocks.11.norm1.weight"
    assert scales["tiles"][stem] == pytest.approx(0.0138, abs=1e-4)
    assert scales["tiles"]["tiles.backbone.reg_token"] == scales["tiles"][stem]
    assert scales["tiles"][last] == 1
    assert {scale for name, scale in scales["tiles"].items() if not name.startswith("tiles.")} == {1}
    assert scales["all"][stem] == pytest.approx(8e-4, rel=0.01)
    assert scales["all"][last] == pytest.approx(0.7**8)
    assert scales["all"]["project.he.weight"] == pytest.approx(0.7**7)
    assert scales["all"]["blocks.5.experts.1.0.weight"] == pytest.approx(0.7)
    assert scales["all"]["decoders.he.blocks.0.attention.qkv.weight"] == 1


def test_layers_of_other_networks():
    convnet = timm.create_model("test_resnet", num_classes=0)
    layers = tile_layers(convnet)
    assert set(layers.values()) == set(range(max(layers.values()) + 1))
    assert layers["conv1.0.weight" if "conv1.0.weight" in layers else "conv1.weight"] == 0
    assert max(layers[name] for name in layers if name.startswith("layer1")) < layers["layer2.0.conv1.weight"]
    own = tile_layers(SmallNet())
    assert own == {
        "scale": 0, "stem.weight": 0, "stem.bias": 0,
        "stages.0.0.weight": 1, "stages.0.0.bias": 1, "stages.0.1.weight": 2, "stages.0.1.bias": 2,
        "stages.1.0.weight": 3, "stages.1.0.bias": 3,
    }  # fmt: skip
    assert tile_layers(nn.Linear(2, 2)) == {"weight": 0, "bias": 0}


def test_the_learning_rate_of_every_block(run):
    config, model, sections = run
    tiles = tokens_of(config, model, sections)
    config = config.changed(lr=1e-2, warmup_epochs=0, weight_decay=0.1)
    optimiser = make_optimiser(model.network.requires_grad_(True), config.optimiser, tiles=tiles.module)
    schedule = make_schedule(optimiser, config.optimiser, steps_per_epoch=10)
    group = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    n = sum(len(group["params"]) for group in optimiser.param_groups)
    assert n == len(list(model.network.parameters())) + len(list(tiles.module.parameters()))
    module = tiles.module
    for step, factor in ((0, 1.0), (10, 0.5)):
        schedule.step_update(step)
        for i, block in enumerate(module.blocks):
            assert group[id(block.attn.qkv.weight)]["lr"] == pytest.approx(factor * 1e-2 * 0.7 ** (5 - i))
        assert group[id(module.patch_embed.proj.weight)]["lr"] == pytest.approx(factor * 1e-2 * 0.7**6)
        assert group[id(model.network.norm.weight)]["lr"] == pytest.approx(factor * 1e-2)
    assert group[id(module.pos_embed)]["weight_decay"] == 0
    assert group[id(module.blocks[0].attn.qkv.bias)]["weight_decay"] == 0
    assert group[id(module.blocks[0].attn.qkv.weight)]["weight_decay"] == 0.1


# ---------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_trained_is_named(run, tmp_path):
    config, _, sections = run
    shards = [section.shard for section in sections]
    here = {"out": str(tmp_path / "run"), "shards": str(tmp_path)}
    with pytest.raises(ValueError, match=r"'stain-texture'\s+has none"):
        trainable(get_encoder("stain-texture"), nn.Identity())
    with pytest.raises(ValueError, match="train_tiles=true needs a tile encoder with weights"):
        tile_encoder_of(config.changed(tile_encoder="stain-texture", tile_init="published"))
    with pytest.raises(ValueError, match="needs tiles of 48 px"):
        prepare(config.changed(tile_px=48, **here), shards)
    cached = tile_shard(tmp_path, config, name="cached")
    (cached.path / "patches.npy").unlink()
    cached.facts["sha256"].pop("patches.npy")
    with pytest.raises(ValueError, match=r"packed without pixels.*needs tiles of 32 px"):
        prepare(config.changed(**here), [cached])
    bare = [shard for shard in shards if not shard.has("he")]
    with pytest.raises(ValueError, match="train_tiles=true, but no section to train on has an image"):
        prepare(config.changed(**here), bare)
    info = small_net()
    frozen = info.architecture()
    trainable(info, frozen.requires_grad_(False))
    assert all(p.requires_grad for p in frozen.parameters())
