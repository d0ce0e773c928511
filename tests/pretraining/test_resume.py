"""A run that is killed goes on as if it had not been."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from planted_shards import planted_config, planted_corpus
from storm.model import build_storm
from storm.pretraining.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from storm.pretraining.optimise import make_optimiser
from storm.pretraining.prepare import prepare
from storm.pretraining.record import EPOCHS, STEPS
from storm.pretraining.train import train

_KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from planted_shards import planted_config
from storm.pretraining import record, train
step = record.Record.step
def then_die(self, number, *rest):
    step(self, number, *rest)
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
record.Record.step = then_die
train.train(planted_config(Path(sys.argv[2]), checkpoint_steps=3))
"""


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def columns(path: Path, *, without: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [tuple(value for key, value in row.items() if key not in without) for row in table(path)]


#: What a log says of the machine.
TIMES = ("windows_per_s", "forward_windows_per_s", "share_of_forward")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs, never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    config = planted_config(folder, checkpoint_steps=3)
    prepare(config, planted_corpus(folder / "shards", n=12))
    return config, train(config)


def test_a_killed_run_goes_on_to_the_bit(finished, tmp_path):
    import storm

    config, whole = finished
    per_epoch = len(table(Path(config.run.out) / "steps.csv")) // 2
    # it died after step 7, and goes on from a checkpoint that is in the middle of an epoch
    assert 6 % per_epoch
    mine = planted_config(tmp_path, checkpoint_steps=3)
    prepare(mine, planted_corpus(tmp_path / "shards", n=12))
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(Path(__file__).parent), str(tmp_path)], capture_output=True, check=False
    )
    assert done.returncode == -9, done.stderr.decode()
    assert [row["step"] for row in table(tmp_path / "run" / "steps.csv")] == [str(step) for step in range(8)]
    assert find_checkpoint(tmp_path / "run" / "checkpoints").name == "step-000000006"
    assert not (tmp_path / "run" / "model").exists()
    model = storm.load_model(train(mine))
    for name, without in (("steps.csv", ()), ("log.csv", TIMES)):
        assert columns(tmp_path / "run" / name, without=without) == columns(
            Path(config.run.out) / name, without=without
        )
    there = storm.load_model(whole).network.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in model.network.state_dict().items())


def test_a_finished_run_is_not_run_again(finished):
    config, whole = finished
    before = (Path(config.run.out) / "steps.csv").read_bytes()
    weights = (whole / "network.safetensors").read_bytes()
    assert train(config) == whole
    assert (Path(config.run.out) / "steps.csv").read_bytes() == before
    assert (whole / "network.safetensors").read_bytes() == weights
    assert tuple(table(Path(config.run.out) / "steps.csv")[0]) == STEPS
    assert tuple(table(Path(config.run.out) / "log.csv")[0]) == EPOCHS


def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path):
    folder = Path(shutil.copytree(Path(finished[0].run.out) / "checkpoints", tmp_path / "checkpoints"))
    last, before = sorted(folder.iterdir(), reverse=True)
    data = bytearray((last / "optimiser.safetensors").read_bytes())
    data[-1] ^= 1
    (last / "optimiser.safetensors").write_bytes(data)
    assert find_checkpoint(folder) == before
    (before / "state.json").write_text("{")
    assert find_checkpoint(folder) is None
    network = build_storm("tiny", n_genes=5)
    optimiser = make_optimiser(network, finished[0].optimiser)
    sum(p.square().sum() for p in network.parameters()).backward()
    optimiser.step()
    for step in (3, 4):
        save_checkpoint(folder, network, optimiser, state={"step": step}, keep=2)
    assert len(list(folder.iterdir())) == 2
    other = build_storm("tiny", n_genes=5)
    moments = make_optimiser(other, finished[0].optimiser)
    path = save_checkpoint(tmp_path / "fresh", network, optimiser, state={"step": 4}, keep=1)
    assert load_checkpoint(path, other, moments) == {"step": 4}
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        for key, value in optimiser.state[one].items():
            assert torch.equal(value, moments.state[two][key])
