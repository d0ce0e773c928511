"""Features of each spot from H&E alone, by the frozen network: the input of an expression head."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from torch import Tensor

from storm._inference.device import Compute
from storm._inference.windows import Stage
from storm.data.components import finite_rows
from storm.data.journal import Journal
from storm.data.windows import Windows
from storm.model.batch import SharedBatch, StormOutput
from storm.model.decoder import SpotDecoder
from storm.model.readout import window
from storm.model.storm import Storm


def he_features(
    network: Storm,
    tokens: np.ndarray,
    windows: Windows,
    compute: Compute,
    *,
    journal: Journal | None = None,
    facts: dict[str, Any] | None = None,
) -> np.ndarray:
    """Features of H&E-only windows.

    Side by side: the window's input tokens weighted by distance, and what the network makes of them. That is the ST
    decoder's last hidden state at the centre, asked for with all of the window's H&E visible and no expression; a
    network without that decoder gives its output tokens, weighted by distance.

    Parameters
    ----------
    network
        Frozen, in evaluation mode.
    tokens
        Standardised tile embeddings, shape (n, he_dim); NaN rows have none.
    windows
        Windows of the n spots.
    compute
        How to run.
    journal, facts
        See :func:`~storm._inference.windows.run_windows`.

    Returns
    -------
    ndarray
        Float32, shape (n, f); NaN for a spot without an own tile.
    """
    network = network.to(compute.device).eval()
    decoder = cast("SpotDecoder", network.decoders["st"]) if "st" in network.decoders else None
    width = network.config.he_dim + (network.config.width if decoder is None else network.config.decoder_width)

    def vectors(batch: SharedBatch, output: StormOutput) -> list[Tensor]:
        averaged = window(output, batch)
        context = averaged["he"]
        if decoder is not None and output.he is not None and output.he_mask is not None:
            at = batch.offsets.expand(len(batch), -1, 2) if batch.offsets.ndim == 2 else batch.offsets
            context = decoder.hidden(output.he, output.he_mask, at, at[:, :1])[:, 0]
        return [averaged["he_input"], context]

    stage = Stage("features", facts or {}, journal or Journal())
    out = stage.run(network, {"he": tokens}, windows, vectors, compute, width=width)
    out[~finite_rows(tokens)] = np.nan
    return out
