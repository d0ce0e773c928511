"""``storm adapt``: one model fitted on all sections that are given, jointly."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import storm
from storm.cli._commands import read_store


def adapt(
    *, paths: list[Path], out: Path, model: str, tile_encoder: Path | None, from_scratch: bool, **options: Any
) -> None:
    """``storm adapt``.

    Raises
    ------
    FileExistsError
        If ``out`` exists.
    ValueError
        If a model is named that is not to be started from, and whatever :func:`storm.tl.adapt` raises.
    """
    if out.exists():
        msg = f"--out {out} exists; give another name, or remove it"
        raise FileExistsError(msg)
    if from_scratch and tile_encoder is not None:
        msg = "--from-scratch takes the packaged tile encoder, which has no weights; leave --tile-encoder out"
        raise ValueError(msg)
    start = None if from_scratch else storm.load_model(model, tile_encoder=tile_encoder)
    options["patience"] = options["patience"] or None
    adapted = storm.tl.adapt([read_store(path) for path in paths], model=start, **options)
    # A folder that is there is whole.
    scratch = out.with_name(out.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    adapted.save(scratch)
    scratch.rename(out)
    print(f"{_said(adapted.card)}: {out}")


def _said(card: dict[str, Any]) -> str:
    """What was fitted, and how well it rebuilds what it was not trained on."""
    said = f"{card['summary']}, {card['epochs']} epochs in {card['seconds']:g} s"
    for name, loss in card.get("held_out_loss", {}).items():
        what = {"he": "H&E", "st": "expression"}[name]
        said += f"; held-out loss of {what} {loss:.3g} (of the mean {card['held_out_loss_of_the_mean'][name]:.3g})"
    return said
