"""The methods for expression by name: how each predicts, and what it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storm.benchmark import _expression_networks as networks
from storm.benchmark import _probes as probes
from storm.benchmark._probes import Part, Training
from storm.benchmark._tile_views import RANDOM_TILE, STORM, TILE, UNTRAINED, WINDOW_1

Predict = Callable[[Sequence[Part], Sequence[Part], Training], list[np.ndarray]]


@dataclass(frozen=True)
class Probe:
    """A method that reads features of tiles.

    Attributes
    ----------
    predict
        Expression of the spots of some sections, from others.
    reads
        The features; ``None`` for those of every encoder that is compared, an empty text for none.
    random
        Whether the seed matters.
    """

    predict: Predict
    reads: str | None = None
    random: bool = False


@dataclass(frozen=True)
class ImageMethod:
    """A method that is trained on the patches themselves.

    Attributes
    ----------
    predict
        As of a probe.
    backbone
        The network of its paper, which reads patches; ``None`` if it has its own.
    px
        Edge of the patches, where it has its own network.
    """

    predict: Predict
    backbone: str | None
    px: int | None = None


#: STORM's head, and ablations: a window of one spot, a network that was not trained, no network, no trained encoder.
STORMS: dict[str, Probe] = {
    "storm": Probe(probes.head, STORM, random=True),
    "storm_window_1": Probe(probes.head, WINDOW_1, random=True),
    "storm_untrained": Probe(probes.head, UNTRAINED, random=True),
    "storm_tile": Probe(probes.head, TILE, random=True),
    "storm_random_tile": Probe(probes.head, RANDOM_TILE, random=True),
}
#: What is run on the features of every encoder.
PROBES: dict[str, Probe] = {
    "mean": Probe(probes.mean, ""),
    "ridge": Probe(probes.ridge),
    "hest": Probe(probes.hest),
    "mlp": Probe(networks.mlp, random=True),
    "knn": Probe(probes.neighbours),
    "bleep": Probe(networks.bleep, random=True),
    "st_net": Probe(networks.st_net, random=True),
    "deep_pt": Probe(networks.deep_pt, random=True),
    "his_to_gene": Probe(networks.his_to_gene, random=True),
}
#: What is trained on images, for which a GPU is wanted.
IMAGES: dict[str, ImageMethod] = {
    "st_net_image": ImageMethod(networks.st_net, "timm:densenet121.tv_in1k"),
    "bleep_image": ImageMethod(networks.bleep, "timm:resnet50.a1_in1k"),
    "his_to_gene_image": ImageMethod(networks.his_to_gene, None, 112),
}
#: Methods that run unless others are named.
DEFAULT = ("storm", "mean", "ridge", "hest", "mlp", "knn", "bleep", "deep_pt")
ALL = (*STORMS, *PROBES, *IMAGES)
