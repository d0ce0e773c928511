"""The log of a run: one CSV of steps, one of epochs, TensorBoard beside them where it is installed."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from storm._loading.files import write_json, write_text
from storm._logging import logger

STEPS = ("step", "epoch", "lr", "he", "st")
EPOCHS = (
    "epoch",
    "lr",
    "he",
    "st",
    "validation_he",
    "validation_st",
    "windows_per_s",
    "forward_windows_per_s",
    "share_of_forward",
)


class Record:
    """The log of a run, written by one of its processes.

    Parameters
    ----------
    out
        Folder of the run, which gets ``steps.csv``, ``log.csv``, ``baselines.json``, ``tensorboard/``.
    step, epoch
        Step and epoch at which the run goes on; later lines of an interrupted run are dropped.
    on
        Whether this process writes.
    """

    def __init__(self, out: Path, *, step: int, epoch: int, on: bool) -> None:
        self.on, self.out = on, out
        self._files: dict[str, Any] = {}
        self._board = None
        if not on:
            return
        for name, columns, first in (("steps", STEPS, step), ("log", EPOCHS, epoch)):
            path = out / f"{name}.csv"
            _cut(path, columns, first)
            self._files[name] = path.open("a", newline="", encoding="utf-8")
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(out / "tensorboard", purge_step=step)

    def step(self, step: int, epoch: int, lr: float, losses: dict[str, float]) -> None:
        """One step's losses."""
        self._write("steps", STEPS, {"step": step, "epoch": epoch, "lr": lr, **losses}, at=step)

    def epoch(self, epoch: int, losses: dict[str, float], facts: dict[str, float]) -> None:
        """One epoch's mean losses, and other measurements."""
        self._write("log", EPOCHS, {"epoch": epoch, **losses, **facts}, at=epoch)
        if self.on:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in {**losses, **facts}.items())
            logger.info("epoch %d: %s", epoch, listed)

    def baselines(self, losses: dict[str, float]) -> None:
        """Losses that the validation losses have to beat."""
        if self.on:
            write_json(self.out / "baselines.json", losses)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, name: str, columns: tuple[str, ...], values: dict[str, Any], *, at: int) -> None:
        if not self.on:
            return
        file = self._files[name]
        # repr of a float reads back as the same float
        csv.writer(file, lineterminator="\n").writerow([repr(values[c]) if c in values else "" for c in columns])
        file.flush()
        if self._board is not None:
            for key in columns:
                if isinstance(values.get(key), float):
                    self._board.add_scalar(f"{name}/{key}", values[key], at)


def _cut(path: Path, columns: tuple[str, ...], first: int) -> None:
    """Keep the lines of an earlier part of the run up to the step or epoch at which it goes on."""
    header = ",".join(columns) + "\n"
    kept = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]:
            # The last line may have been cut by a kill.
            if line.endswith("\n") and line.count(",") == len(columns) - 1 and int(line.split(",")[0]) < first:
                kept.append(line)
    write_text(path, header + "".join(kept))
