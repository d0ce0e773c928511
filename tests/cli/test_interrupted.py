"""Ctrl-C anywhere: exit status 130, one sentence on what is kept and how to go on, no traceback in the shell."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import spatialdata as sd

import storm
from storm.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    # Tests that a shell starts in the background ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def stores(toy, tiny_model, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    toy.write("a.zarr")
    shutil.copytree("a.zarr", "b.zarr")
    tiny_model.save("tiny")
    return tmp_path


def interrupt(monkeypatch: pytest.MonkeyPatch, target: str, *, before: int = 0) -> None:
    """Let a function send this process Ctrl-C when it has been called ``before`` times, after its own work."""
    module, _, name = target.rpartition(".")
    owner = importlib.import_module(module)
    function: Callable = getattr(owner, name)
    calls = []

    def wrapped(*args: object, **kwargs: object) -> object:
        result = function(*args, **kwargs)
        calls.append(1)
        if len(calls) == before + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, wrapped)


def said(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """The one line of an interrupted command."""
    assert main([*argv, "--quiet"]) == 130
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if not line.startswith("storm: warning")]
    assert len(lines) == 1
    return lines[0]


TINY = ("--model", "tiny")
SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from storm.data.rows import Rows
write = Rows.write
def interrupted(self, *args):
    write(self, *args)
    os.kill(os.getpid(), signal.SIGINT)
Rows.write = interrupted
"""


def run(code: str, *argv: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + code, *argv], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_command_in_a_process_of_its_own(stores):
    argv = ["embed", "a.zarr", "--model", "tiny", "--quiet"]
    done = run("from storm.cli import main; raise SystemExit(main(sys.argv[1:]))", *argv)
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"storm embed: interrupted: nothing was written, and finished rows are kept beside {stores / 'a.zarr'}; the "
        f"same command goes on from there"
    ]
    assert "X_storm" not in sd.read_zarr("a.zarr")["table"].obsm
    assert main(argv) == 0  # goes on from there
    assert "X_storm" in sd.read_zarr("a.zarr")["table"].obsm


def test_python_says_it_below_the_traceback(stores):
    code = (
        "import spatialdata as sd, storm; storm.settings.verbosity = 0\n"
        "storm.tl.embed([sd.read_zarr('a.zarr'), sd.read_zarr('b.zarr')], model='tiny')"
    )
    done = run(code)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nothing was written, and finished rows are kept beside")
    assert last.endswith("b.zarr; the same call goes on from there")


def test_an_object_without_a_store_keeps_nothing(toy, tiny_model, monkeypatch):
    interrupt(monkeypatch, "storm.tl._embed.warn_nan")
    with pytest.raises(KeyboardInterrupt) as caught:
        storm.tl.embed(toy, model=tiny_model)
    assert caught.value.__notes__[0].startswith("nothing was written; the same call starts again")
    assert "X_storm" not in toy["table"].obsm


def test_several_sections(stores, capsys, monkeypatch):
    interrupt(monkeypatch, "storm.cli._many.run_section")
    line = said(capsys, "embed", "a.zarr", "b.zarr", "--model", "tiny", "--workers", "1")
    assert line.startswith("storm embed: interrupted: ")
    assert "of 2 sections are done and kept; the same command with --skip-existing goes on with the others" in line


def test_sections_together(stores, capsys, monkeypatch):
    interrupt(monkeypatch, "storm.cli._joint_store.run_step")
    line = said(capsys, "embed", "a.zarr", "b.zarr", "--joint", "--readout", "adaptive", *TINY, "--workers", "1")
    assert line.endswith("finished steps are kept beside the stores; the same command goes on from there")


def test_commands_that_keep_nothing(stores, capsys, monkeypatch):
    assert main(["embed", "a.zarr", "--model", "tiny", "--quiet"]) == 0
    interrupt(monkeypatch, "storm.tl._domains.cluster_rows")
    line = said(capsys, "domains", "a.zarr", "--n-domains", "2")
    assert line == "storm domains: interrupted: the same command starts again from the beginning"
    assert "storm_domain" not in sd.read_zarr("a.zarr")["table"].obs


def test_adaptation(stores, capsys, monkeypatch):
    interrupt(monkeypatch, "storm.pretraining.fit.check_weights")
    line = said(capsys, "adapt", "a.zarr", "--out", "adapted", "--model", "tiny", "--epochs", "3")
    assert line.endswith("nothing of the adaptation is kept; the same command starts it again from the beginning")
    assert not Path("adapted").exists()


def test_a_cohort(stores, toy, capsys, monkeypatch):
    import numpy as np
    import pandas as pd
    from PIL import Image

    from storm.prognosis import Cohort, add_slides

    pixels = np.asarray(toy["he"]["scale0"]["image"]).transpose(1, 2, 0)
    for k in range(3):
        Image.fromarray(np.ascontiguousarray(pixels[: 500 + k, :500])).save(f"s{k}.png")
    patients = pd.DataFrame({"patient": ["p"], "OS_time": [1.0], "OS_event": [1]})
    slides = pd.DataFrame({"slide": ["s0", "s1", "s2"], "patient": "p", "path": ["s0.png", "s1.png", "s2.png"]})
    cohort = Cohort.create("kirc", patients=patients, slides=slides.assign(um_per_px=1.0))
    with monkeypatch.context() as patch:
        interrupt(patch, "storm.prognosis._add_slides.slide_features", before=1)
        with pytest.raises(KeyboardInterrupt) as caught:
            add_slides(cohort, model="tiny", modality="he", device="cpu")
    assert caught.value.__notes__ == ["1 of 3 slides are done and kept in kirc; the same call goes on with the others"]
    interrupt(monkeypatch, "storm.cli._many.run_section")
    line = said(capsys, "cohort", "add", "kirc", "--model", "tiny", "--modality", "he", "--workers", "1")
    assert line.endswith("slides are done and kept; the same command adds the others")


def test_pretraining(stores, capsys, monkeypatch):
    Path("run.toml").write_text(
        'sections = ["a.zarr"]\ntile_encoder = "stain-texture"\n[network]\nsize = "tiny"\nexpression_dim = 8\n'
        "[optimiser]\nepochs = 3\nwarmup_epochs = 1\nbatch_size = 32\nsection_batch = 16\nlr = 1e-3\n"
        '[run]\ncheckpoint_steps = 1\n[machine]\naccelerator = "cpu"\ndevices = 1\n'
    )
    with monkeypatch.context() as patch:
        interrupt(patch, "storm.cli._pretrain.pack_section")
        line = said(capsys, "pretrain", "run.toml")
    assert "sections that are packed are kept in" in line
    with monkeypatch.context() as patch:
        interrupt(patch, "storm.pretraining.train.save_checkpoint", before=1)
        line = said(capsys, "pretrain", "run.toml")
    assert "step 2 of" in line
    assert "the same command goes on from the checkpoint" in line
    assert main(["pretrain", "run.toml", "--quiet"]) == 0
