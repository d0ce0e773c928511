"""Platform × step: time and memory from a vendor's folder to domains and predicted genes.

    python benchmarks/platforms.py visium:/data/outs:image=/data/HE.tif visium_hd:/data/hd/outs:bin_size=16
    python benchmarks/platforms.py xenium:/data/xenium:image=/data/HE.ome.tif,alignment=/data/alignment.csv
    python benchmarks/platforms.py slide:/data/biopsy.svs:um_per_px=0.25 --model storm-mini --json platforms.json

A section is ``reader:path`` with a function of :mod:`storm.io`; ``zarr:path``; ``her2st:C2`` or ``mob:rep11`` of
:mod:`storm.datasets`; or ``toy-visium_hd:100000`` with a platform and a number of observations. Then, after another
colon, the reader's options, and these of the script: ``modality=he``; ``adapt=true`` embeds with a model fitted on the
section itself (``storm.tl.adapt(model=None)``), which is part of the step. Each section runs in a process of its own.
Time is wall-clock time of a step; memory is the process's high-water mark after the step, over what it held when all
packages were imported. A step that fails says why, and later ones are tried all the same; without an image no genes are
predicted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Section:
    """What is read."""

    reader: str
    path: str
    options: dict[str, Any]
    model: str
    modality: str
    adapt: bool = False

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.reader} {Path(self.path).name}"


def read(_: Any, section: Section) -> Any:
    """The vendor's folder, or a drawn section."""
    import storm

    if section.reader.startswith("toy-"):
        return storm.datasets.toy(section.reader.removeprefix("toy-"), n=int(section.path), **section.options)
    if section.reader == "zarr":
        import spatialdata

        return spatialdata.read_zarr(section.path)
    if section.reader in ("her2st", "mob"):
        return getattr(storm.datasets, section.reader)(section.path, **section.options)
    return getattr(storm.io, section.reader)(section.path, **section.options)


def check(sdata: Any, section: Section) -> Any:
    """The report, with its estimate; returned with the verdicts that are not ok."""
    import storm

    report = storm.pp.check(sdata, model=section.model)
    sdata.attrs["check"] = [f"{row.verdict}: {row.name}: {row.value}" for row in report.rows if row.verdict != "ok"]
    return sdata


def embed(sdata: Any, section: Section) -> Any:
    """Every spot, bin, cell, or tile of a slide."""
    import storm

    model = storm.tl.adapt(sdata, model=None, modality=section.modality) if section.adapt else section.model
    storm.tl.embed(sdata, model=model, modality=section.modality)
    return sdata


def domains(sdata: Any, section: Section) -> Any:
    """Five of them."""
    import storm

    storm.tl.domains(sdata, 5)
    return sdata


def predict_expression(sdata: Any, section: Section) -> Any:
    """Genes from the H&E."""
    import storm

    storm.tl.predict_expression(sdata, model=section.model)
    return sdata


#: The columns of the table, in this order: a function takes what the one before returned, and the section.
STEPS: dict[str, Callable[[Any, Section], Any]] = {
    "read": read,
    "check": check,
    "embed": embed,
    "domains": domains,
    "predict_expression": predict_expression,
}


def memory_gb() -> float:
    """High-water mark of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def run(section: Section, steps: list[str], pipe: Any) -> None:
    """All steps of one section; the result goes into the pipe."""
    import scanpy  # noqa: F401
    import spatialdata_io  # noqa: F401
    import torch

    import storm
    import storm.io
    import storm.pp

    torch.set_num_threads(storm.settings.n_threads or torch.get_num_threads())
    storm.settings.verbosity = 0
    # reading modules for the first time is no part of any step
    storm.tl.domains  # noqa: B018
    before = memory_gb()
    result: dict[str, Any] = {"section": section.name, "imports_gb": before, "steps": {}}
    sdata = None
    for name in steps:
        if name == "predict_expression" and not sdata.images:
            continue
        start = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                sdata = STEPS[name](sdata, section)
            done: dict[str, Any] = {"warnings": [str(w.message) for w in seen if issubclass(w.category, UserWarning)]}
        except Exception as error:  # noqa: BLE001 - what fails is what the table shows
            done = {"error": f"{type(error).__name__}: {error}"}
        result["steps"][name] = done | {"s": time.perf_counter() - start, "gb": memory_gb() - before}
        if sdata is None:
            break
    if sdata is not None:
        result["n"] = {key: list(table.shape) for key, table in sdata.tables.items()}
        result["check"] = sdata.attrs.pop("check", [])
        result["storm_io"] = {key: str(value) for key, value in sdata.attrs.get("storm_io", {}).items()}
    pipe.send(result)


def parse(text: str, model: str, modality: str) -> Section:
    """A section from the command line."""
    reader, path, *more = text.split(":", 2)
    options: dict[str, Any] = {}
    for item in more[0].split(",") if more else []:
        key, _, value = item.partition("=")
        try:
            options[key] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            options[key] = value
    modality, adapt = options.pop("modality", modality), options.pop("adapt", False)
    return Section(reader, path, options, model, modality, adapt)


def table(results: list[dict[str, Any]], steps: list[str]) -> str:
    """Markdown: seconds and GB of each step."""
    lines = ["| section | n × genes | " + " | ".join(steps) + " |", "|---" * (len(steps) + 2) + "|"]
    notes = []
    for result in results:
        first = next(iter(result.get("n", {}).values()), None)
        cells = []
        for name in steps:
            step = result["steps"].get(name)
            if step is None:
                cells.append("")
            elif "error" in step:
                cells.append("error")
                notes.append(f"{result['section']}, {name}: {step['error']}")
            else:
                cells.append(f"{step['s']:.1f} s, {step['gb']:.2f} GB")
        cells.insert(0, f"{first[0]:,} × {first[1]:,}" if first else "")
        lines.append(f"| {result['section']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *notes])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", metavar="reader:path[:key=value,…]")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--model", default="storm-mini")
    parser.add_argument("--modality", default="auto", choices=["auto", "both", "he", "st"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    results = []
    for text in arguments.sections:
        here, there = context.Pipe(duplex=False)
        section = parse(text, arguments.model, arguments.modality)
        process = context.Process(target=run, args=(section, arguments.steps, there))
        process.start()
        there.close()
        try:
            results.append(here.recv())
        except EOFError:
            process.join()
            results.append(
                {"section": section.name, "steps": {"read": {"error": f"the process ended with {process.exitcode}"}}}
            )
        process.join()
        print(table(results[-1:], arguments.steps), flush=True)
    print("\n" + table(results, arguments.steps))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
