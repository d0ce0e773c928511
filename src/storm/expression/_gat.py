"""Forward pass of Novae's graph encoder over many small graphs at once, through the weights of its own layers.

Novae runs a graph attention network (GATv2: Brody, Alon & Yahav 2022) on each spot's own graph and pools the graph's
nodes by attention. Both functions here compute the same with fewer and larger operations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from storm._logging import logger
from storm.expression._graph import SmallGraphs

#: µm that make an edge of length 1 for Novae.
EDGE_UNIT_UM = 20.0


def check_encoder(encoder: Any) -> None:
    """Raise unless a graph encoder of Novae, which has no type of its own here, has the layers computed below.

    Raises
    ------
    ValueError
        Names the layers that differ.
    """
    gnn = encoder.gnn
    wrong = []
    for k, conv in enumerate(gnn.convs):
        if type(conv).__name__ != "GATv2Conv":
            wrong.append(f"layer {k} is a {type(conv).__name__}, not a GATv2Conv")
            continue
        options = (conv.add_self_loops, conv.fill_value, conv.share_weights, conv.res is None, conv.edge_dim)
        if options != (True, "mean", False, True, 1):
            wrong.append(f"layer {k} has self-loops, edges or residuals of another kind: {options}")
    if any(not isinstance(norm, nn.Identity) for norm in gnn.norms) or gnn.jk_mode is not None:
        wrong.append("it has norms or jumping knowledge")
    if wrong:
        msg = f"this Novae cannot be run here: {'; '.join(wrong)}. Novae 1.x builds GATv2 without norms"
        raise ValueError(msg)


def encode_single(encoder: Any, x: Tensor) -> Tensor:
    """Embedding of one-node graphs.

    The only edge is that of the node to itself, so that each attention weight is 1 and only linear layers remain.

    Parameters
    ----------
    encoder
        Novae's graph encoder.
    x
        Cell embeddings, shape (n, e).

    Returns
    -------
    Tensor
        Shape (n, d).
    """
    gnn = encoder.gnn
    last = len(gnn.convs) - 1
    for k, conv in enumerate(gnn.convs):
        weight, bias = conv.lin_l.weight, conv.lin_l.bias
        if not conv.concat:  # the mean over heads is taken on the weights
            weight = weight.view(conv.heads, conv.out_channels, -1).mean(0)
            bias = bias.view(conv.heads, conv.out_channels).mean(0)
        x = F.linear(x, weight, bias + conv.bias)
        if k < last:
            x = _activated(gnn.act, x)
    return encoder.node_aggregation.attention_aggregation.nn(x)


def encode_graphs(encoder: Any, x: Tensor, graphs: SmallGraphs) -> Tensor:
    """Embedding of each small graph.

    Parameters
    ----------
    encoder
        Novae's graph encoder.
    x
        Cell embeddings of all spots, shape (n, e).
    graphs
        The graphs, with lengths in µm.

    Returns
    -------
    Tensor
        Shape (b, d).
    """
    nodes, gnn = x[torch.from_numpy(graphs.nodes).to(x.device)], encoder.gnn
    attend = _attention(graphs, nodes)
    for k, conv in enumerate(gnn.convs):
        nodes = attend(conv, nodes).view(-1, conv.heads, conv.out_channels)
        # Heads side by side in inner layers, their mean in the last.
        nodes = (nodes.flatten(1) if conv.concat else nodes.mean(1)) + conv.bias
        if k < len(gnn.convs) - 1:
            nodes = _activated(gnn.act, nodes)
    # Each graph is pooled over its own nodes, which are consecutive, by a softmax of their gates.
    pool = encoder.node_aggregation.attention_aggregation
    first = torch.from_numpy(graphs.first).to(x.device)
    member = torch.arange(len(first) - 1, device=x.device).repeat_interleave(first.diff())
    gate = _softmax(pool.gate_nn(nodes), first, member)
    return torch.segment_reduce(gate * pool.nn(nodes), "sum", offsets=first)


def _activated(act: nn.Module, x: Tensor) -> Tensor:
    """The activation; ELU, Novae's own, by a plain exponential, which is many times faster than torch's."""
    if isinstance(act, nn.ELU) and act.alpha == 1:
        return torch.maximum(x, x.clamp(max=0).exp_().sub_(1))
    return act(x)


def _attention(graphs: SmallGraphs, like: Tensor) -> Callable[[Any, Tensor], Tensor]:
    """GATv2 of a layer: nodes (s, d) to (s, heads · width), compiled on the processor."""
    length = graphs.length / np.float32(EDGE_UNIT_UM)
    if like.device.type == "cpu" and like.dtype == torch.float32 and (compiled := _compiled()) is not None:

        def attend(conv: Any, nodes: Tensor) -> Tensor:
            sides = conv.lin_l, conv.lin_r
            both = F.linear(nodes, torch.cat([side.weight for side in sides]), torch.cat([side.bias for side in sides]))
            edge, vectors = conv.lin_edge.weight[:, 0].contiguous().numpy(), conv.att.view(-1).numpy()
            out = compiled(
                both.numpy(), length, edge, vectors, conv.heads, conv.negative_slope, graphs.source, graphs.begin
            )
            return torch.from_numpy(out)

        return attend

    # Edges lie one after the other, sorted by the node that they point to ("target"): those of a node are a slice.
    source, begin = (torch.from_numpy(part).to(like.device) for part in (graphs.source, graphs.begin))
    far = torch.from_numpy(length).to(like)
    target = torch.arange(len(begin) - 1, device=like.device).repeat_interleave(begin.diff())

    def attend_by_torch(conv: Any, nodes: Tensor) -> Tensor:
        left = conv.lin_l(nodes).index_select(0, source)
        mixed = (conv.lin_r(nodes).index_select(0, target) + left).addr_(far, conv.lin_edge.weight[:, 0])
        # score = a · leaky_relu(W_l source + W_r target + W_e length)
        score = (F.leaky_relu_(mixed, conv.negative_slope).view(-1, conv.heads, conv.out_channels) * conv.att).sum(2)
        share = _softmax(score, begin, target)[:, :, None]
        return torch.segment_reduce(
            (share * left.view(-1, conv.heads, conv.out_channels)).flatten(1), "sum", offsets=begin
        )

    return attend_by_torch


@cache
def _compiled() -> Callable[..., np.ndarray] | None:
    """The compiled attention, or ``None`` where numba has no folder to keep what it compiled."""
    try:
        from storm.expression._attention import attend
    except RuntimeError as error:
        logger.info("graph attention runs in torch, the compiled one cannot be loaded: %s", error)
        return None
    return attend


def _softmax(score: Tensor, begin: Tensor, group: Tensor) -> Tensor:
    """Softmax within groups of consecutive rows, in place."""
    # Less the group's maximum, so that exp does not overflow.
    top = torch.segment_reduce(score, "max", offsets=begin)
    weight = score.sub_(top.index_select(0, group)).exp_()
    return weight.div_(torch.segment_reduce(weight, "sum", offsets=begin).index_select(0, group))
