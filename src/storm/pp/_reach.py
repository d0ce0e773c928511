"""What the ``"adaptive"`` read-out would choose: the reach of the section, and whether the network adds to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from storm._inference.adaptive import choices, gate, own_expression
from storm.data.windows import Windows, make_windows
from storm.pp._reading import text_of
from storm.pp._report import Row

if TYPE_CHECKING:
    from storm._loading import StormModel
    from storm.data.spots import Spots

#: Spots of a larger section that are looked at: one patch in the middle.
_SPOTS = 20_000


def reach_rows(spots: Spots, windows: Windows, model: StormModel) -> list[Row]:
    """How far spots are alike, and whether the model's tokens are used; nothing if the model has another read-out."""
    if model.settings["readout"] != "adaptive" or spots.counts is None or not spots.counts.nnz:
        return []
    n = len(windows.rows())
    if n > _SPOTS:
        spots, windows = _middle(spots, windows)
    try:
        own = own_expression(spots, windows)
        decision = gate(own.reach, spots, windows, model)
    except ValueError as error:
        return [Row("reach", "cannot be measured", "info", text_of(error))]
    facts = choices(own.reach, decision, windows, um_known=spots.um_known)
    width = f"{own.reach.sigma:.2g} pitches" + (f" ({facts['reach_um']:.0f} µm)" if spots.um_known else "")
    value = f"spots are alike over {width}: R² {own.reach.best:.2f}"
    if decision.reach is not None:
        value += f" in the section's own components, {decision.reach.best:.2f} in the model's tokens"
    value += f"; the tokens are {'used' if facts['st_tokens'] else 'left out'}"
    if n > _SPOTS:
        value += f" (of {_SPOTS:,} spots in the middle)"
    if own.reach.best <= 0:
        text = (
            "no spot is predicted by those around it any better than by the mean of the section: do the coordinates "
            "belong to these rows?"
        )
        return [Row("reach", value, "warn", text, facts)]
    return [Row("reach", value, "info", decision.reason, facts)]


def _middle(spots: Spots, windows: Windows) -> tuple[Spots, Windows]:
    rows = windows.rows()
    rows = rows[len(rows) // 2 - _SPOTS // 2 :][:_SPOTS]
    counts, _ = spots.expression
    part = replace(
        spots, ids=spots.ids[rows], centres=spots.centres[rows], counts=counts[rows], patches=None, off_tissue=None
    )
    return part, make_windows(part.centres)
