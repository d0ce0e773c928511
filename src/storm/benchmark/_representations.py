"""What each method makes of a section, and the seconds that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge import spots_of
from storm._inference.section_embedding import EmbedPlan, embed_section
from storm.benchmark._methods import COMPARATORS, READ_OUTS, TILES, k_means
from storm.benchmark._section import CountedSection
from storm.benchmark._tile_views import TILE, TileViews, find_encoder, untrained
from storm.data.journal import Journal

if TYPE_CHECKING:
    from storm._bridge.selection import Selection
    from storm._inference.device import Compute
    from storm._loading import StormModel


@dataclass(frozen=True, eq=False)
class Represented:
    """A section as a method represents it.

    Attributes
    ----------
    values
        Shape (n, d); NaN in rows that the method does not know.
    cluster
        What finds domains in it: of the values, the known rows, their number and a seed.
    seconds
        Time that the representation took; NaN for one that was given.
    """

    values: np.ndarray
    cluster: Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]
    seconds: float


@dataclass(eq=False)
class Workshop:
    """Runs methods on one section; what the comparators share of it is prepared once.

    Parameters
    ----------
    selection
        The section.
    model
        STORM's model; ``None`` if neither it nor its tile encoder is run.
    compute, seed
        How the model is run.
    """

    selection: Selection
    model: StormModel | None
    compute: Compute
    seed: int = 0

    def __post_init__(self) -> None:
        self._counted: tuple[CountedSection, np.ndarray, float] | None = None

    def run(self, name: str) -> Represented:
        """Run a method by its name.

        Raises
        ------
        KeyError, ValueError
            If the section lacks something, or has too little of it.
        """
        if name in READ_OUTS:
            return self._storm(name)
        if name in TILES:
            return self._tile(TILES[name])
        section, placed, prepared = self._prepared()
        comparator = COMPARATORS[name]
        started = time.perf_counter()
        own = comparator.represent(section)
        seconds = prepared + time.perf_counter() - started
        values = np.full((len(placed), own.shape[1]), np.nan, dtype=own.dtype)
        values[placed] = own
        return Represented(values, comparator.cluster, seconds)

    def _prepared(self) -> tuple[CountedSection, np.ndarray, float]:
        """The section, which rows are in it, and the seconds that both took."""
        if self._counted is None:
            started = time.perf_counter()
            spots = spots_of(self.selection.without_image(), counts=True)
            section = CountedSection.of(spots)
            self._counted = section, spots.placed, time.perf_counter() - started
        return self._counted

    def _storm(self, name: str) -> Represented:
        assert self.model is not None
        read_out = READ_OUTS[name]
        model = self.model if read_out.trained else replace(self.model, network=untrained(self.model.network))
        plan = EmbedPlan(
            model=model,
            compute=self.compute,
            modality=read_out.modality,
            field_um=self.model.tile_encoder.field_um,
            field="exact",
            window="auto",
            window_size=read_out.window_size,
            radius_um=None,
            readout=read_out.readout or self.model.settings["readout"],
            seed=self.seed,
            joint=False,
        )
        selection = self.selection.without_image() if read_out.modality == "st" else self.selection
        started = time.perf_counter()
        values = embed_section(selection, plan, Journal()).vector
        return Represented(values, k_means, time.perf_counter() - started)

    def _tile(self, encoder: str) -> Represented:
        """Embeddings of the tiles, standardised within the section."""
        assert self.model is not None
        started = time.perf_counter()
        spots = spots_of(self.selection, counts=False)
        views = TileViews(spots, self.selection.table, self.model, self.compute)
        values = views.features(encoder if encoder == TILE else find_encoder(encoder))
        return Represented(values, k_means, time.perf_counter() - started)
