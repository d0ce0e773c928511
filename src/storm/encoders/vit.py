"""Vision transformers of timm as tile encoders: a network without its head, and how its tokens become one vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from storm.encoders.info import EncoderInfo
from storm.encoders.loading import load_encoder
from storm.encoders.registry import register

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class PooledViT(nn.Module):
    """A transformer whose tokens are pooled into one vector.

    Parameters
    ----------
    backbone
        A vision transformer of timm.
    pooling
        ``"cls"`` or ``"cls+mean"``.
    """

    def __init__(self, backbone: VisionTransformer, *, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling

    def tokens(self, x: Tensor) -> Tensor:
        """Normalised tokens of tiles (B, 3, H, W), shape (B, prefix + patches, width): class token first."""
        return self.backbone.forward_features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings of tiles (B, 3, H, W), shape (B, dim)."""
        tokens = self.tokens(x)
        if self.pooling == "cls":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, self.backbone.num_prefix_tokens :].mean(dim=1)], dim=1)


def vit(model: str, *, pooling: str, swiglu: bool = False, **arguments: Any) -> Callable[[], PooledViT]:
    """Function that builds an architecture without weights.

    Parameters
    ----------
    model
        Name in timm.
    pooling
        ``"cls"`` or ``"cls+mean"``.
    swiglu
        Whether the feed-forward layers are gated, with SiLU.
    arguments
        Arguments of the model, as on its card.

    Returns
    -------
    callable
        Returns a new :class:`PooledViT` with random weights.
    """

    def build() -> PooledViT:
        import timm

        gated: dict[str, Any] = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU} if swiglu else {}
        # The class token is taken here, so the network has neither pooling nor head; positions are interpolated for
        # other input sizes, and left as they are at the published one.
        backbone = timm.create_model(
            model, pretrained=False, num_classes=0, global_pool="", dynamic_img_size=True, **gated, **arguments
        )
        return PooledViT(cast("VisionTransformer", backbone), pooling=pooling)

    return build


def register_hub(**facts: Any) -> EncoderInfo:
    """Register an encoder of the hub; ``build`` loads its weights from this machine, or tells how to get them."""
    name = facts["name"]

    def build() -> nn.Module:
        return load_encoder(name).build()

    page = f"https://huggingface.co/{facts['hub_id']}"
    return register(EncoderInfo(build=build, page=page, **({"any_size": True} | facts)))


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a ViT or DINOv2 of the package transformers to timm's names.

    Query, key and value become one matrix; mask token and pooler are dropped. With registers, timm's transformers have
    no position for the class token: its position is added to the token itself, which is equivalent. A state that has
    timm's names already is returned unchanged.
    """
    if "cls_token" in state:
        return dict(state)
    state = {name.removeprefix("vit.").removeprefix("dinov2."): tensor for name, tensor in state.items()}
    out: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name.startswith(("pooler.", "embeddings.mask_token")):
            continue
        for old, new in _RENAMED:
            name = name.replace(old, new)
        part = next((p for p in ("query", "key", "value") if f".{p}." in name), None)
        if part is None:
            out[name] = tensor
        else:
            qkv.setdefault(name.replace(f".{part}.", "."), {})[part] = tensor
    out |= {name: torch.cat([parts[p] for p in ("query", "key", "value")]) for name, parts in qkv.items()}
    if "reg_token" in out and "pos_embed" in out and "cls_token" in out:
        out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
        out["pos_embed"] = out["pos_embed"][:, 1:]
    return out


_RENAMED = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("encoder.layer.", "blocks."),
    ("attention.attention.", "attn.qkv."),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("mlp.weights_in", "mlp.fc1"),
    ("mlp.weights_out", "mlp.fc2"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("layernorm.", "norm."),
)
