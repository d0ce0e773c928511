"""The dense side of transformers: embeddings of any place, from the tokens of a few tiles around it.

An embedding of a tile is a class token, a mean of patch tokens, or both; a place between tiles gets each from its own
kind, so that a model trained on the one can read the other:

- the class token of the tiles around it, interpolated between their middles,
- the mean of the patch tokens over the field around the place, of all tiles that the field touches.

In the middle of a tile the result equals the encoder's own embedding of the tile, whatever its weights are. Elsewhere
it is an approximation: a class token is not a sum over the field, and a patch token also depends on where its patch
lies in the tile and on the rest of the tile.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from storm.encoders.info import EncoderInfo
from storm.encoders.registry import get_encoder, list_encoders

#: Cosine between the pooled tokens and the encoder's own output below which the encoder pools in another way.
_SAME = 0.999


class TokenGrid:
    """A transformer's tokens, arranged as in the tile.

    Parameters
    ----------
    info
        The encoder.
    module
        Its network.
    patch_tokens
        Use the mean of patch tokens in place of the class token.

    Attributes
    ----------
    pooling
        ``"cls"``, ``"cls+mean"`` or ``"mean"``.

    Raises
    ------
    ValueError
        If the encoder has no patch tokens or pools them in another way (the text lists encoders that work), or if
        ``patch_tokens`` is set although the embedding is not the class token alone.
    """

    def __init__(self, info: EncoderInfo, module: nn.Module, *, patch_tokens: bool = False) -> None:
        self._info, self.module, self.patch_tokens = info, module, patch_tokens
        # A network of timm pools by itself; the others are inside storm's own pooling.
        # Typed as Any: what a network of timm has is asked for below.
        self._backbone: Any = getattr(module, "backbone", module)
        own = {"token": "cls", "avg": "mean"}.get(str(getattr(module, "global_pool", None)))
        self.pooling: str | None = getattr(module, "pooling", own)
        known = all(hasattr(self._backbone, name) for name in ("forward_features", "num_prefix_tokens"))
        if not known or self.pooling not in ("cls", "cls+mean", "mean"):
            raise ValueError(cannot(info.name))
        if patch_tokens and self.pooling != "cls":
            msg = f"tile encoder {info.name!r} has patch tokens in its embedding already; leave patch_tokens=False"
            raise ValueError(msg)
        norm = getattr(self._backbone, "fc_norm", None)
        self._norm = norm if isinstance(norm, nn.Module) and self._backbone is module else nn.Identity()

    def __call__(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Tokens of tiles (B, 3, H, W).

        Returns
        -------
        classes
            Class tokens, shape (B, width); ``None`` if the embedding does not use them.
        patches
            Patch tokens, shape (B, side, side, width).

        Raises
        ------
        ValueError
            If the patch tokens do not form a square.
        """
        tokens = self._backbone.forward_features(x).float()
        prefix = self._backbone.num_prefix_tokens
        side = isqrt(tokens.shape[1] - prefix) if tokens.ndim == 3 else 0
        if not side or side * side != tokens.shape[1] - prefix:
            raise ValueError(cannot(self._info.name))
        return None if self.pooling == "mean" else tokens[:, 0], tokens[:, prefix:].unflatten(1, (side, side))

    def join(self, classes: Tensor | None, means: Tensor) -> Tensor:
        """Embeddings, not yet :meth:`finished`, of class tokens and means of patch tokens, (b, width) each; linear."""
        if classes is None or self.patch_tokens:
            return means
        return classes if self.pooling == "cls" else torch.cat([classes, means], dim=1)

    def finished(self, joined: Tensor) -> Tensor:
        """Embeddings, shape (b, dim), after the norm that some networks apply after pooling."""
        return self._norm(joined)

    def check(self, x: Tensor) -> None:
        """Raise unless the joined tokens of tiles (B, 3, H, W) equal the encoder's embeddings of these tiles.

        Raises
        ------
        ValueError
            If they differ.
        """
        plain = TokenGrid(self._info, self.module)
        classes, patches = plain(x)
        joined = plain.finished(plain.join(classes, patches.mean(dim=(1, 2))))
        own = self.module(x).float()
        if own.shape != joined.shape or torch.cosine_similarity(own, joined).min() < _SAME:
            raise ValueError(cannot(self._info.name))


def cannot(name: str) -> str:
    """Error text for an encoder that has no dense side."""
    names = [known for known in list_encoders() if has_dense(get_encoder(known))]
    return (
        f"tile encoder {name!r} has no dense side: it has no square grid of patch tokens, or its embedding is neither "
        f"their mean nor the class token; field='dense' works with {names} and with transformers of timm that take the "
        "class token or the mean, others embed tile by tile"
    )


def has_dense(info: EncoderInfo) -> bool:
    """Whether an encoder has a dense side, by its description."""
    return info.dense is not None or (info.patch_px is not None and info.pooling in ("cls", "cls+mean"))
