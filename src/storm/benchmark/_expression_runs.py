"""What is run in a comparison of expression: methods with what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storm.benchmark._expression_methods import IMAGES, PROBES, STORMS
from storm.benchmark._tile_views import TILE, VIEWS, find_encoder
from storm.encoders import EncoderInfo

if TYPE_CHECKING:
    from storm._loading import StormModel
    from storm.benchmark._expression_methods import Predict


@dataclass(frozen=True, eq=False)
class Run:
    """A method with what it reads.

    Attributes
    ----------
    method, predict
        Its name, and what it does.
    reads, encoder
        The features that it reads, and their name in the table.
    random
        Whether the seed matters.
    backbone
        The network that it trains on patches.
    field_um, px
        Edge of these in µm and in pixels; ``px`` is 0 for a method that reads features.
    """

    method: str
    predict: Predict
    reads: str | EncoderInfo
    encoder: str
    random: bool = True
    backbone: EncoderInfo | None = None
    field_um: float = 0.0
    px: int = 0


def runs_of(
    names: Sequence[str],
    encoders: Sequence[str | EncoderInfo] | None,
    backbone: str | EncoderInfo | None,
    model: StormModel,
) -> list[Run]:
    """All methods with all that they read; weights that are missing are missed here, before anything is computed.

    Parameters
    ----------
    names
        Names of methods.
    encoders, backbone
        As in :func:`storm.benchmark.expression`.
    model
        The model.

    Raises
    ------
    FileNotFoundError
        If the weights of an encoder are not on this machine.
    ValueError
        If there is no such encoder.
    """
    given = [TILE] if encoders is None else [encoders] if isinstance(encoders, str | EncoderInfo) else list(encoders)
    loaded: dict[str, EncoderInfo] = {}

    def source(one: str | EncoderInfo) -> tuple[str | EncoderInfo, str]:
        """What is read, and its name in the table."""
        if isinstance(one, str) and one == TILE:
            return one, model.tile_encoder.name
        if isinstance(one, str) and one in VIEWS:
            return one, f"{model.name}: {one}"
        info = loaded.setdefault(one, find_encoder(one)) if isinstance(one, str) else one
        return info, info.name

    runs = []
    for name in names:
        if name in IMAGES:
            method = IMAGES[name]
            if method.backbone is None:
                field_um = model.tile_encoder.field_um
                runs.append(Run(name, method.predict, "", "pixels", px=method.px or 0, field_um=field_um))
            else:
                network = find_encoder(method.backbone if backbone is None else backbone)
                field_um, px = network.field_um, network.tile_px
                runs.append(Run(name, method.predict, "", network.name, backbone=network, px=px, field_um=field_um))
            continue
        probe = STORMS[name] if name in STORMS else PROBES[name]
        if probe.reads == "":
            runs.append(Run(name, probe.predict, TILE, "", random=probe.random))
            continue
        for one in given if probe.reads is None else [probe.reads]:
            reads, encoder = source(one)
            runs.append(Run(name, probe.predict, reads, encoder, random=probe.random))
    return runs
