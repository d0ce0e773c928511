"""What methods for expression read of a section's image: features by several encoders, or the patches themselves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from storm._inference.he_features import he_features
from storm._inference.neighbourhoods import section_windows
from storm._inference.tile_cache import held_result, model_tiles, tile_embedding
from storm._inference.tokens import he_tokens
from storm._keys import tiles_key
from storm.data.normalise import CLIP, standardise
from storm.encoders import EncoderInfo, get_encoder, load_encoder, with_weights
from storm.model.storm import Storm

if TYPE_CHECKING:
    from anndata import AnnData

    from storm._inference.device import Compute
    from storm._loading import StormModel
    from storm.data.spots import Spots

#: The tile encoder of the model; the features of STORM's head; those of windows of one spot, and of a random network.
TILE, STORM, WINDOW_1, UNTRAINED = "model", "storm", "storm_window_1", "storm_untrained"
VIEWS = (STORM, WINDOW_1, UNTRAINED)
#: Begins the name of an encoder that gets random weights.
RANDOM = "random:"
#: The encoder of the ablation.
RANDOM_TILE = f"{RANDOM}timm:resnet18"


def find_encoder(given: str | EncoderInfo) -> EncoderInfo:
    """An encoder with its weights, by name; ``"random:<name>"`` draws them (seed 0).

    Raises
    ------
    FileNotFoundError
        If its weights are not on this machine.
    ValueError
        If there is no such encoder, or it has no weights that could be drawn.
    """
    if isinstance(given, EncoderInfo):
        return given
    if not given.startswith(RANDOM):
        return load_encoder(given)
    info = get_encoder(given.removeprefix(RANDOM))
    if info.architecture is None:
        msg = f"{given!r}: encoder {info.name!r} has no weights that could be random; name another, such as "
        msg += f"'{RANDOM}timm:resnet18'"
        raise ValueError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = with_weights(info, info.architecture().requires_grad_(False).eval())
    return replace(drawn, name=given)


def untrained(network: Storm) -> Storm:
    """A network of the same shape whose weights are drawn at random (seed 0)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Storm(network.config).requires_grad_(False).eval()


def own_tiles(values: np.ndarray) -> np.ndarray:
    """Tile embeddings standardised by their own mean and spread within the section, float32, shape (n, d)."""
    width = values.shape[1]
    return standardise(values, np.zeros(width), np.ones(width), within=True, clip=CLIP)


@dataclass(eq=False)
class TileViews:
    """The image of one section, seen in several ways, each of which is computed once.

    Parameters
    ----------
    spots
        The section with its reader.
    table
        Its table, which may hold embeddings that an earlier call left.
    model, compute
        The model, and how networks are run.
    field_um
        Edge of the field in µm; ``None`` for each encoder's own.
    """

    spots: Spots
    table: AnnData | None
    model: StormModel
    compute: Compute
    field_um: float | None = None
    _seen: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _patches: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def features(self, encoder: str | EncoderInfo) -> np.ndarray:
        """Features of each spot, float32, shape (n, d); NaN outside the image.

        Parameters
        ----------
        encoder
            ``"model"``, ``"storm"``, ``"storm_window_1"``, ``"storm_untrained"``, or an encoder.
        """
        name = encoder if isinstance(encoder, str) else encoder.name
        if name not in self._seen:
            self._seen[name] = self._features(encoder)
        return self._seen[name]

    def _features(self, encoder: str | EncoderInfo) -> np.ndarray:
        if isinstance(encoder, EncoderInfo):
            tiles = tile_embedding(
                self.spots,
                encoder,
                self.compute,
                held=held_result(self.table, tiles_key(encoder.name)),
                field_um=self.field_um or encoder.field_um,
            )
            return own_tiles(tiles.values)
        if encoder == TILE:
            tiles = model_tiles(
                self.table,
                self.spots,
                self.model,
                self.compute,
                field_um=self.field_um or self.model.tile_encoder.field_um,
                field="exact",
            )
            return he_tokens(tiles.values, self.model)
        network = untrained(self.model.network) if encoder == UNTRAINED else self.model.network
        windows = section_windows(self.spots, size=1 if encoder == WINDOW_1 else None)
        return he_features(network, self.features(TILE), windows, self.compute)

    def patches(self, field_um: float, px: int) -> np.ndarray:
        """The field around each spot, uint8, shape (n, px, px, 3); black outside the image.

        Parameters
        ----------
        field_um
            Its edge in µm, unless one is given for all.
        px
            Its edge in pixels.
        """
        name = f"{field_um} {px}"
        if name in self._patches:
            return self._patches[name]
        out = np.zeros((len(self.spots), px, px, 3), dtype=np.uint8)
        batches = self.spots.reader.iter_patches(self.spots.centres, field_um=self.field_um or field_um, out_px=px)
        for rows, pixels in batches:
            out[rows] = pixels
        self._patches = {name: out}  # one kind at a time, as they are large
        return out
