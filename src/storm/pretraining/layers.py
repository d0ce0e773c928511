"""Layers of a tile encoder, from its stem upwards, for a learning rate that falls towards the stem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from storm.encoders.loading import inner_module


def tile_layers(module: nn.Module) -> dict[str, int]:
    """Layer of every parameter of a tile encoder, 0 for its stem.

    A network of timm, by itself or inside a pooling, declares its layers (``group_matcher``): for a vision transformer
    the embeddings of patches, positions and registers are the stem, every block is a layer, and the last norm goes with
    the last block; for a ConvNet every block of every stage is a layer. What is around such a network (a pooling with
    weights) goes with its last layer.

    The layers of any other module are its parts in the order in which they were registered, the items of a
    ``Sequential`` or ``ModuleList`` one by one; parameters of its own (a class token) belong to the first.

    Parameters
    ----------
    module
        The tile encoder.

    Returns
    -------
    dict of str to int
        By name of the parameter in ``module``. The layers are numbered without gaps.
    """
    inner: Any = inner_module(module)
    if not hasattr(inner, "group_matcher"):
        return _as_written(module)
    from timm.models import group_parameters

    group_of = group_parameters(inner, inner.group_matcher(coarse=False), reverse=True)
    prefix = next((f"{name}." for name, child in module.named_children() if child is inner), "")
    # timm leaves numbers out where a group has no parameters (a pooling without weights).
    order = {layer: at for at, layer in enumerate(sorted(set(group_of.values())))}
    layers = {f"{prefix}{name}": order[layer] for name, layer in group_of.items()}
    top = len(order) - 1
    return {name: layers.get(name, top) for name, _ in module.named_parameters()}


def _as_written(module: nn.Module) -> dict[str, int]:
    layers = {name: 0 for name, _ in module.named_parameters(recurse=False)}
    for at, (prefix, part) in enumerate(_parts(module)):
        layers |= {f"{prefix}.{name}": at for name, _ in part.named_parameters()}
    # A parameter that two parts share is named once, with the first.
    return {name: layers[name] for name, _ in module.named_parameters()}


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Parts with parameters, from the bottom."""
    for name, child in module.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from _parts(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield f"{prefix}{name}", child
