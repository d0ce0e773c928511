"""Layout of a drawn section: its ground, and the structures that are larger than a cell."""

from __future__ import annotations

from dataclasses import dataclass, field

from storm.datasets._ground import Ground, draw_ground
from storm.datasets._structures import Adipocytes, Structures


@dataclass(frozen=True)
class Section(Ground):
    """A drawn section: the ground and what was drawn on it.

    Attributes
    ----------
    adipocytes
        Fat cells of the adipose tissue.
    structures
        Acini, malignant glands and vessels.
    """

    adipocytes: Adipocytes = field(repr=False)
    structures: Structures = field(repr=False)


def make_section(*, seed: int, side: float) -> Section:
    """Draw the layout of a section in a square frame of ``side`` µm."""
    ground = draw_ground(seed=seed, side=side)
    return Section(
        seed=ground.seed,
        extent=ground.extent,
        level=ground.level,
        fields=ground.fields,
        thresholds=ground.thresholds,
        softness=ground.softness,
        adipocytes=Adipocytes.draw(seed, ground),
        structures=Structures.draw(seed, ground),
    )
