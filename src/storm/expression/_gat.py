"""Forward pass of Novae's graph encoder over many small graphs at once, through the weights of its own layers.

Novae runs a graph attention network (GATv2: Brody, Alon & Yahav 2022) on each spot's own graph and pools the graph's
nodes by attention. Both functions here compute the same with fewer and larger operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
            x = gnn.act(x)
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
    # Edges lie one after the other, sorted by the node that they point to ("target"): those of a node are a slice.
    source = torch.from_numpy(graphs.source).to(x.device)
    begin = torch.from_numpy(graphs.begin).to(x.device)
    length = torch.from_numpy(graphs.length).to(x.device) / EDGE_UNIT_UM
    degree = begin.diff()
    target = torch.arange(len(degree), device=x.device).repeat_interleave(degree)
    nodes = x[torch.from_numpy(graphs.nodes).to(x.device)]
    gnn = encoder.gnn
    heads = gnn.convs[0].heads
    # embedding_bag below sums rows of a table with weights, for each bag. A bag is a slot with a head, its rows are the
    # slot's incoming edges, and the table's rows are (source, head). `entries` numbers (edge, head) as the weights are
    # stored; `place` is the position of each of them when sorted by bag; `order` inverts it.
    entries = torch.arange(len(source) * heads, device=x.device).view(-1, heads)
    rank = torch.arange(len(source), device=x.device) - begin[target]
    place = (begin[target] * heads + rank)[:, None] + torch.arange(heads, device=x.device) * degree[target][:, None]
    order = torch.empty_like(entries.view(-1))
    order[place.view(-1)] = entries.view(-1)
    # The table's row of each sorted entry, and the first entry of each bag.
    entry = (source[:, None] * heads + torch.arange(heads, device=x.device)).view(-1)[order]
    bag = (begin[:-1, None] * heads + torch.arange(heads, device=x.device) * degree[:, None]).view(-1)
    last = len(gnn.convs) - 1
    scratch = None
    for k, conv in enumerate(gnn.convs):
        heads, width = conv.heads, conv.out_channels
        # GATv2: score = a · leaky_relu(W_l source + W_r target + W_e length), computed in place for all edges.
        left, right = conv.lin_l(nodes), conv.lin_r(nodes)
        if scratch is None or scratch.shape[2] != left.shape[1]:  # the same memory for all layers of one width
            scratch = left.new_empty((2, len(source), left.shape[1]))
        mixed = torch.index_select(right, 0, target, out=scratch[0])
        mixed.add_(torch.index_select(left, 0, source, out=scratch[1]))
        mixed = F.leaky_relu_(mixed.addr_(length, conv.lin_edge.weight[:, 0]), conv.negative_slope)
        # The heads' attention vectors as blocks of one matrix give the scores of all heads, shape (edges, heads).
        share = _softmax(mixed @ torch.block_diag(*conv.att[0].unsqueeze(1)).T, begin, target)
        # The fastest weighted sum over edges that torch has.
        nodes = F.embedding_bag(
            entry, left.view(-1, width), bag, mode="sum", per_sample_weights=share.view(-1).index_select(0, order)
        ).view(-1, heads, width)
        # Heads side by side in inner layers, their mean in the last.
        nodes = (nodes.flatten(1) if conv.concat else nodes.mean(1)) + conv.bias
        if k < last:
            nodes = gnn.act(nodes)
    # Each graph is pooled over its own nodes, which are consecutive, by a softmax of their gates.
    pool = encoder.node_aggregation.attention_aggregation
    first = torch.from_numpy(graphs.first).to(x.device)
    member = torch.arange(len(first) - 1, device=x.device).repeat_interleave(first.diff())
    gate = _softmax(pool.gate_nn(nodes), first, member)
    return torch.segment_reduce(gate * pool.nn(nodes), "sum", offsets=first)


def _softmax(score: Tensor, begin: Tensor, group: Tensor) -> Tensor:
    """Softmax within groups of consecutive rows, in place."""
    # Less the group's maximum, so that exp does not overflow.
    top = torch.segment_reduce(score, "max", offsets=begin)
    weight = score.sub_(top.index_select(0, group)).exp_()
    return weight.div_(torch.segment_reduce(weight, "sum", offsets=begin).index_select(0, group))
