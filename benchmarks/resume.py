"""Kill embed at random moments, call it again, and compare with a run that nobody interrupted.

    python benchmarks/resume.py [--kills 20] [--n 400] [--seed 0] [--out resume.json]

A stored toy section, the smallest model, batches of 20. The process is killed (SIGKILL) at a moment drawn from the time
that a whole run takes, again and again, until `--kills` kills have hit; whenever a run comes to its end before the
kill, its result is compared bit for bit and the next round starts from nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

CHILD = """
import sys, torch, numpy as np, spatialdata, storm
torch.set_num_threads(1)
storm.settings.verbosity = 0
sdata = spatialdata.read_zarr(sys.argv[1])
model = storm.load_model(sys.argv[2])
print("ready", flush=True)
storm.tl.embed(sdata, model=model, batch_size=20, readout="window")
np.save(sys.argv[3], sdata.tables["table"].obsm["X_storm"])
"""


def main() -> None:
    """Kill, count, compare."""
    import storm

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    record = {"kills": 0, "rounds": 0, "equal": 0, "resumed_rows": []}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(scratch)
        sdata = storm.datasets.toy("visium", n=args.n, seed=0)
        storm.build_model("storm-tiny", genes=sdata.tables["table"].var_names).save(folder / "model")
        sdata.write(folder / "section.zarr")
        argv = [sys.executable, "-c", CHILD, folder / "section.zarr", folder / "model", folder / "out.npy"]

        def run(limit: float | None) -> float | None:
            """Seconds after 'ready', or None if it was killed."""
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
                child.stdout.readline()
                start = time.perf_counter()
                try:
                    _, said = child.communicate(timeout=limit)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.communicate()
                    return None
                if child.returncode:
                    sys.exit(said)
                if "going on after" in said:
                    record["resumed_rows"].append(int(said.split("going on after ")[1].split()[0]))
                return time.perf_counter() - start

        whole = run(None)
        expected = np.load(folder / "out.npy")
        while record["kills"] < args.kills:
            (folder / "out.npy").unlink(missing_ok=True)
            if run(rng.uniform(0, whole)) is None:
                record["kills"] += 1
                continue
            record["rounds"] += 1
            record["equal"] += int(np.array_equal(np.load(folder / "out.npy"), expected, equal_nan=True))
        run(None)
        record["rounds"] += 1
        record["equal"] += int(np.array_equal(np.load(folder / "out.npy"), expected, equal_nan=True))
        record["left_behind"] = (folder / "section.zarr.storm").exists()
    print(json.dumps(record, indent=1))
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
