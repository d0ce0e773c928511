"""Processes forked after torch has run on several threads: a model loads and embeds, and nothing waits forever."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Torch runs on two threads, then a child does the rest; the child's last line is what it got.
SCRIPT = """
import os, sys
import torch
{before}
torch.set_num_threads(2)
torch.rand(2_000_000).add_(1).sum()
child = os.fork()
if child == 0:
    import storm
    model = storm.load_model()
    section = storm.datasets.toy("visium", n=60, seed=0)
    storm.settings.verbosity = 0
    storm.tl.embed(section, model=model)
    print(torch.get_num_threads(), section.tables["table"].obsm["X_storm"].shape[0], flush=True)
    os._exit(0)
print("threads of the parent", torch.get_num_threads(), flush=True)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

#: The same, up to the loaded model, with the child's threads put back to two: loading itself shares no work.
LOAD_ONLY = """
import os, sys
import torch, storm
torch.set_num_threads(2)
torch.rand(2_000_000).add_(1).sum()
child = os.fork()
if child == 0:
    torch.set_num_threads(2)
    print(len(storm.load_model().sha256), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells when a process started")


def lines_of(script: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("before", ["", "import storm"], ids=["storm-in-child-only", "storm-in-parent"])
def test_a_forked_child_embeds(before) -> None:
    lines = lines_of(SCRIPT.format(before=before))
    assert sorted(lines) == ["1 60", "threads of the parent 2"]


def test_loading_needs_no_other_thread() -> None:
    assert lines_of(LOAD_ONLY) == ["64"]


def test_a_process_that_was_not_forked_keeps_its_threads() -> None:
    script = "import torch; torch.set_num_threads(2); import storm; print(torch.get_num_threads())"
    assert lines_of(script) == ["2"]


def test_a_child_of_one_thread_keeps_its_threads() -> None:
    script = (
        "import os\nimport storm, torch\ntorch.set_num_threads(2)\n"
        "import storm._fork as fork\nfork._n_threads = lambda: 1\n"
        "child = os.fork()\n"
        "if child == 0:\n    print(torch.get_num_threads(), flush=True)\n    os._exit(0)\nos.waitpid(child, 0)"
    )
    assert lines_of(script) == ["2"]
