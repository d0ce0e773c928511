"""Two processes on the CPU (gloo) say what one says of the same batches."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from planted_shards import planted_config, planted_corpus
from planted_tiles import tile_config, tile_corpus
from storm.pretraining.augment import Augmentation
from storm.pretraining.distributed import Objective, epoch_steps
from storm.pretraining.objective import Masking
from storm.pretraining.prepare import prepare
from storm.pretraining.reader import Reader
from storm.pretraining.train import _tiles, train

# two more interpreters are started
pytestmark = pytest.mark.slow

#: Three jobs a step, so that two processes do not share them evenly; the last step of the epoch has fewer.
HOW = {"epochs": 2, "warmup_epochs": 0, "batch_size": 96, "lr": 1e-3, "dropout": 0.1}

_TWO = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_ddp import configure
from storm.pretraining import train

out = Path(sys.argv[2])
# Recomputed activations, which one process does without, and how many devices there are change nothing.
config = configure(sys.argv[3], out, devices="auto", tile_chunk=16)
step, at = train._step, 0
def kept(fabric, objective, optimiser, batches, **how):
    global at
    said = step(fabric, objective, optimiser, batches, **how)
    grads = {n: p.grad for n, p in objective.module.named_parameters() if p.grad is not None}
    if at == 0:
        assert fabric.world_size == 2
        assert len(batches) == 2 - fabric.global_rank
        save_file(grads, out / f"grads{fabric.global_rank}.safetensors")
    at += 1
    return said
train._step = kept
train.train(config)
"""


def configure(mode: str, folder: Path, **changes):
    make = tile_config if mode == "end to end" else planted_config
    return make(folder, **(HOW | changes) | ({"section_batch": 32} if mode == "end to end" else {}))


def corpus(mode: str, config) -> list:
    return tile_corpus(config, n=11) if mode == "end to end" else planted_corpus(Path(config.data.shards), n=12)


@pytest.fixture(scope="module", params=["cached", "end to end"])
def both(request, tmp_path_factory):
    """How it is trained, and folders of a run in one process and of the same run in two."""
    mode, folders = request.param, [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder in folders:
        config = configure(mode, folder)
        prepare(config, corpus(mode, config))
    train(configure(mode, folders[0]))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
         sys.executable, "-c", _TWO, str(Path(__file__).parent), str(folders[1]), mode],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return mode, folders


def test_gradients_are_those_of_one_process(both, tmp_path):
    mode, (_, two) = both
    config = configure(mode, tmp_path)
    model, sections = prepare(config, corpus(mode, config))
    network, tiles = model.network.requires_grad_(True).train(), None
    if mode == "end to end":
        tiles = _tiles(config, model, sections, SimpleNamespace(device="cpu"))
    jobs = epoch_steps(sections, config, 0)[0]
    assert len(jobs) == 3
    objective = Objective(network, Masking(), tiles)
    reader = Reader(sections, Masking(), augmentation=Augmentation(), pixels=mode == "end to end")
    sums, counts = objective([reader(job) for job in jobs])
    (sums / counts).sum().backward()
    torch.nn.utils.clip_grad_norm_(objective.parameters(), config.optimiser.clip)
    own = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    assert any(name.startswith("tiles.module.blocks.0.") for name in own) == (mode == "end to end")
    first, second = (load_file(two / f"grads{rank}.safetensors") for rank in range(2))
    assert own.keys() == first.keys() == second.keys()
    largest = max(grad.abs().max() for grad in own.values())
    for name, grad in own.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], grad, rtol=1e-4, atol=1e-6 * float(largest), msg=name)


def test_losses_and_model_are_those_of_one_process(both):
    import storm

    curves, (_, folders) = [], both
    for folder in folders:
        with (folder / "run" / "steps.csv").open(newline="") as file:
            curves.append([(float(row["he"]), float(row["st"])) for row in csv.DictReader(file)])
    assert len(curves[0]) > 3
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=1e-4, atol=1e-5)
    models = [storm.load_model(folder / "run" / "model") for folder in folders]
    one, two = (model.network.state_dict() for model in models)
    if models[0].tile_encoder.modified:
        one, two = (
            state | model.tile_encoder.build().state_dict() for state, model in zip((one, two), models, strict=True)
        )
    for name, value in one.items():
        # The keys' bias has no gradient but rounding errors, which Adam blows up to a step; it changes nothing.
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(value, two[name], rtol=0, atol=2e-4, msg=name)
