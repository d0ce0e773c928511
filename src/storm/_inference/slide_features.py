"""Features of the tiles of one slide that may be laid beside those of others: H&E embedding and virtual genes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from storm import __version__
from storm._bridge import Keys, make_tile_table, select, spots_of
from storm._inference.device import Compute
from storm._inference.he_features import he_features
from storm._inference.head_trust import unusual_tiles
from storm._inference.neighbourhoods import section_windows
from storm._inference.tile_cache import tile_embedding
from storm._inference.tokens import he_tokens
from storm._inference.windows import run_windows
from storm._keys import TILES
from storm._loading import ExpressionHead, StormModel
from storm._types import Field, Standardise
from storm.pretraining.head import apply_head

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from storm.data.spots import Spots
    from storm.data.windows import Windows

#: Read-outs whose axes mean the same on every slide.
SHARED_READOUTS = ("window", "center")


@dataclass(frozen=True, kw_only=True)
class SlidePlan:
    """How slides are embedded; the names are those of :func:`storm.prognosis.add_slides`.

    Attributes
    ----------
    head
        The head for virtual genes; ``None`` for the H&E embedding alone.
    columns
        Positions of the genes among the head's own.
    standardise
        Statistics by which the head's features are standardised.
    """

    model: StormModel
    compute: Compute
    head: ExpressionHead | None
    columns: np.ndarray
    standardise: Standardise
    readout: str
    field_um: float
    field: Field
    stride_um: float | None

    @property
    def genes(self) -> list[str] | None:
        """Names of the genes that are predicted."""
        return None if self.head is None else [self.head.genes[i] for i in self.columns]

    def facts(self) -> dict[str, Any]:
        """What decides about features and must be the same for all slides of a cohort."""
        encoder = self.model.tile_encoder
        facts = {
            "model_name": self.model.name,
            "model_sha256": self.model.sha256,
            "tile_encoder": encoder.name,
            # An encoder without weights is the package's own code.
            "tile_sha256": encoder.sha256 or f"storm {__version__}",
            "tile_px": self.model.tile_px or encoder.tile_px,
            "field_um": float(self.field_um),
            "field": self.field,
            "stride_um": float(self.stride_um or self.field_um),
            "readout": self.readout,
        }
        if self.head is not None:
            facts |= {
                "head_sha256": _head_sha256(self.head),
                "standardise": self.standardise,
                "units": self.head.units,
                "measured_on": self.head.measured_on,
            }
        return facts


@dataclass(frozen=True, kw_only=True)
class SlideFeatures:
    """Features of the tiles of a slide.

    Attributes
    ----------
    he
        Float32, shape (n, d).
    st
        Virtual expression, float32, shape (n, g); ``None`` without a head.
    xy_um
        Centres in µm, shape (n, 2).
    per_tile
        How usual each tile is among those of the head's training, where the head knows.
    attributes
        What belongs to this slide only: µm per pixel and their source, device, precision.
    """

    he: np.ndarray
    st: np.ndarray | None
    xy_um: np.ndarray
    per_tile: dict[str, np.ndarray]
    attributes: dict[str, Any]


def slide_features(sdata: SpatialData, plan: SlidePlan, *, name: str) -> SlideFeatures:
    """Lay tiles over the tissue of a slide, encode each once, and make the H&E embedding and virtual genes from it.

    The H&E embedding is the network's read-out of tiles that are standardised by the statistics of the model's
    training, its parts side by side as they are: nothing of the slide's own mean is subtracted from it.

    Parameters
    ----------
    sdata
        A slide as :func:`storm.io.slide` reads it; the tiles are added to it.
    plan
        How.
    name
        Name of the slide, for warnings.

    Raises
    ------
    ValueError
        If no tissue is found, or the head reads other features.
    """
    selection = select(sdata, Keys(), image=True, table=False)
    shapes, _ = make_tile_table(selection, field_um=plan.field_um, stride_um=plan.stride_um)
    sdata.shapes[TILES] = shapes
    tiled = replace(selection, keys=Keys(shapes_key=TILES))
    spots = spots_of(tiled, counts=False)
    windows = section_windows(spots)
    model = plan.model
    tiles = tile_embedding(
        spots,
        model.tile_encoder,
        plan.compute,
        held=None,
        field_um=plan.field_um,
        field=plan.field,
        tile_px=model.tile_px,
    )
    tokens = {"he": he_tokens(tiles.values, model, by="training")}
    parts = run_windows(model.network, tokens, windows, plan.compute, readout=_checked(plan.readout))
    expression, per_tile, share = None, {}, None
    if plan.head is not None:
        expression = _expression(tiles.values, windows, plan)
        p, share = unusual_tiles(plan.head, tiles.values, section=name)
        per_tile = {} if share is None else {"ood_p": p.astype(np.float32)}
    return SlideFeatures(
        he=np.concatenate(list(parts.values()), axis=1),
        st=expression,
        xy_um=spots.centres,
        per_tile=per_tile,
        attributes=_attributes(spots, plan.compute) | ({} if share is None else {"unusual_tiles": share}),
    )


def _expression(tiles: np.ndarray, windows: Windows, plan: SlidePlan) -> np.ndarray:
    """Virtual genes by the head, shape (n, g)."""
    assert plan.head is not None
    tokens = he_tokens(tiles, plan.model, by=plan.standardise)
    features = he_features(plan.model.network, tokens, windows, plan.compute)
    if features.shape[1] != plan.head.module.linear.in_features:
        msg = (
            f"the head reads {plan.head.module.linear.in_features} features, and this version of storm makes "
            f"{features.shape[1]}; train it again with storm.tl.fit_expression"
        )
        raise ValueError(msg)
    return apply_head(plan.head.module, features)[:, plan.columns]


def _checked(readout: str) -> Any:
    assert readout in SHARED_READOUTS
    return readout


def _attributes(spots: Spots, compute: Compute) -> dict[str, Any]:
    assert spots.scale is not None  # tiles have a size in µm
    return {
        "um_per_px": spots.scale.um_per_px,
        "um_source": spots.scale.source,
        "device": str(compute.device),
        "precision": compute.precision,
    }


def _head_sha256(head: ExpressionHead) -> str:
    digest = hashlib.sha256(repr(head.genes).encode())
    for name, tensor in sorted(head.module.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
