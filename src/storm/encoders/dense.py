"""The dense side of transformers: patch tokens of tiles that do not overlap, and what they say of any place.

An embedding of a tile is a class token, a mean of patch tokens, or both. For a place between tiles

- the mean of patch tokens is the mean over the field around the place, of the tokens of all tiles that it touches;
- the class token is that mean, plus what sets the class token apart from the mean of its tile's patch tokens,
  interpolated between the middles of the tiles.

In the middle of a tile both are what the encoder itself says of the tile, whatever its weights are. Elsewhere they are
not: a token also depends on where its patch lies in the tile and on what else is there.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from storm.encoders.registry import EncoderInfo, get_encoder, list_encoders

#: Cosine between the pooled tokens and the encoder's own output, below which it does something else with its tokens.
_SAME = 0.999


class TokenGrid:
    """A transformer's tokens, laid out as they lie in the tile.

    Parameters
    ----------
    info
        The encoder.
    module
        Its network.

    Attributes
    ----------
    pooling
        ``"cls"``, ``"cls+mean"`` or ``"mean"``.

    Raises
    ------
    ValueError
        If the encoder has no patch tokens, or pools them in another way; the text lists those that can.
    """

    def __init__(self, info: EncoderInfo, module: nn.Module) -> None:
        self.name, self.module = info.name, module
        # A network of timm pools by itself; the others stand inside of storm's own pooling.
        self._backbone = getattr(module, "backbone", module)
        own = {"token": "cls", "avg": "mean"}.get(getattr(module, "global_pool", None))
        self.pooling = getattr(module, "pooling", own)
        known = all(hasattr(self._backbone, name) for name in ("forward_features", "num_prefix_tokens"))
        if not known or self.pooling not in ("cls", "cls+mean", "mean"):
            raise ValueError(cannot(info.name))
        norm = getattr(self._backbone, "fc_norm", None)
        self._norm = norm if isinstance(norm, nn.Module) and self._backbone is module else nn.Identity()

    def __call__(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """What a place may take from tiles (B, 3, H, W).

        Returns
        -------
        offsets
            Class token less the mean of the patch tokens, (B, width); ``None`` where there is no class token in
            the embedding.
        patches
            Patch tokens, (B, side, side, width).

        Raises
        ------
        ValueError
            If the patch tokens are no square.
        """
        tokens = self._backbone.forward_features(x).float()
        prefix = self._backbone.num_prefix_tokens
        side = isqrt(tokens.shape[1] - prefix) if tokens.ndim == 3 else 0
        if not side or side * side != tokens.shape[1] - prefix:
            raise ValueError(cannot(self.name))
        patches = tokens[:, prefix:]
        offsets = None if self.pooling == "mean" else tokens[:, 0] - patches.mean(dim=1)
        return offsets, patches.unflatten(1, (side, side))

    def join(self, means: Tensor, offsets: Tensor | None) -> Tensor:
        """Embeddings, not yet :meth:`finished`, of means of patch tokens and offsets, (b, width) each; linear."""
        if self.pooling == "mean":
            return means
        return means + offsets if self.pooling == "cls" else torch.cat([means + offsets, means], dim=1)

    def finished(self, joined: Tensor) -> Tensor:
        """Embeddings (b, dim), after the norm that some networks have behind their pooling."""
        return self._norm(joined)

    def check(self, x: Tensor) -> None:
        """See whether the joined tokens of tiles (B, 3, H, W) are what the encoder says of them.

        Raises
        ------
        ValueError
            If they are not.
        """
        offsets, patches = self(x)
        joined = self.finished(self.join(patches.mean(dim=(1, 2)), offsets))
        own = self.module(x).float()
        if own.shape != joined.shape or torch.cosine_similarity(own, joined).min() < _SAME:
            raise ValueError(cannot(self.name))


def cannot(name: str) -> str:
    """What to say of an encoder that has no dense side."""
    there = [known for known in list_encoders() if has_dense(get_encoder(known))]
    return (
        f"tile encoder {name!r} has no dense side: it has no square grid of patch tokens, or its embedding is neither "
        f"their mean nor the class token; field='dense' works with {there} and with transformers of timm that take the "
        "class token or the mean, others embed tile by tile"
    )


def has_dense(info: EncoderInfo) -> bool:
    """Whether a registered encoder has a dense side, as far as its description tells."""
    return info.dense is not None or (info.patch_px is not None and info.pooling in ("cls", "cls+mean"))
