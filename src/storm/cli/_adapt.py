"""``storm adapt``: one model fitted jointly on all given sections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import storm
from storm._files import replacing
from storm.cli._stores import check_new_path, read_store

if TYPE_CHECKING:
    from storm._types import Modality, Readout


def adapt(
    *,
    paths: list[Path],
    out: Path,
    model: str,
    tile_encoder: Path | None,
    from_scratch: bool,
    expression: Literal["auto", "keep", "refit"],
    modality: Modality,
    batch: Literal["section", "none"],
    epochs: int | None,
    patience: int,
    held_out: float,
    readout: Readout | None,
    library_key: str | None,
    image_key: str | None,
    table_key: str | None,
    shapes_key: str | None,
    coordinate_system: str | None,
    um_per_px: float | None,
    layer: str | None,
    field_um: float | None,
    device: str,
    seed: int,
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
        expression=expression,
        modality=modality,
        batch=batch,
        epochs=epochs,
        patience=patience or None,
        held_out=held_out,
        readout=readout,
        library_key=library_key,
        image_key=image_key,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
        field_um=field_um,
        device=device,
        seed=seed,
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
