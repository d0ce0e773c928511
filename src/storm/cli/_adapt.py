"""``storm adapt``: one model fitted jointly on all given sections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import storm
from storm._files import replacing
from storm.cli._stores import check_new_path, read_store


def adapt(
    *,
    paths: list[Path],
    out: Path,
    model: str,
    tile_encoder: Path | None,
    from_scratch: bool,
    patience: int,
    **options: Any,
) -> None:
    """``storm adapt``.

    Raises
    ------
    FileExistsError
        If ``out`` exists.
    ValueError
        If ``--tile-encoder`` is given together with ``--from-scratch``, and whatever :func:`storm.tl.adapt` raises.
    """
    check_new_path(out)
    if from_scratch and tile_encoder is not None:
        msg = "--from-scratch uses the packaged tile encoder, which has no weights; leave --tile-encoder out"
        raise ValueError(msg)
    start = None if from_scratch else storm.load_model(model, tile_encoder=tile_encoder)
    adapted = storm.tl.adapt(
        [read_store(path) for path in paths],
        model=start,
        patience=patience or None,
        **options,
    )
    target = Path(os.path.abspath(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as scratch:
        adapted.save(scratch)
        check_new_path(out)
    print(f"{_summary(adapted.card)}: {out}")


def _summary(card: dict[str, Any]) -> str:
    """What was fitted, and how well it reconstructs the spots that it was not trained on."""
    text = f"{card['summary']}, {card['epochs']} epochs in {card['seconds']:g} s"
    for name, loss in card.get("held_out_loss", {}).items():
        modality = {"he": "H&E", "st": "expression"}[name]
        mean = card["held_out_loss_of_the_mean"][name]
        text += f"; held-out loss for {modality}: {loss:.3g} (predicting the mean: {mean:.3g})"
    return text
