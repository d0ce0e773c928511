"""Neighbourhood graphs of spots as arrays: the neighbours of each spot, and the small graph around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import Delaunay, QhullError, cKDTree

from storm._checks import check_choice, check_positive
from storm.data.lattice import find_lattice

#: How neighbours are found; see :func:`spatial_graph`.
GraphKind = Literal["auto", "lattice", "delaunay"]
#: Pitches within which positions of a lattice are neighbours: six of a hexagonal one, eight of a square one.
_REACH = {"hex": 1.3, "square": 1.57}


@dataclass(frozen=True)
class SmallGraphs:
    """Some spots' own graphs, one after the other; a node of one graph is a slot.

    Attributes
    ----------
    nodes
        Spot of each slot, shape (s,).
    first
        First slot of each graph, shape (b + 1,).
    source
        Slot that each edge comes from, shape (e,); edges are sorted by the slot that they go to.
    begin
        First edge of each slot, shape (s + 1,).
    length
        Length of each edge, shape (e,); a slot's edge to itself has the mean length of its other incoming edges.
    """

    nodes: np.ndarray
    first: np.ndarray
    source: np.ndarray
    begin: np.ndarray
    length: np.ndarray


def spatial_graph(centres: np.ndarray, *, kind: GraphKind = "auto", radius: float | None = None) -> csr_matrix:
    """Distances between neighbours, as Novae draws its graphs.

    Parameters
    ----------
    centres
        x and y in µm, shape (n, 2); a row of NaN has no neighbours.
    kind
        ``"lattice"``: the 6 (hexagonal) or 8 (square) positions around a spot; ``"delaunay"``: Delaunay triangulation;
        ``"auto"``: lattice where the centres lie on one.
    radius
        Longest edge of a Delaunay graph in µm; ``None`` keeps all.

    Returns
    -------
    csr_matrix
        float64, shape (n, n), symmetric, without a diagonal.
    """
    check_choice(kind, get_args(GraphKind), name="graph")
    if radius is not None:
        check_positive(radius, name="radius", unit="µm")
    centres = np.asarray(centres, dtype=np.float64)
    n = len(centres)
    placed = np.flatnonzero(np.isfinite(centres).all(axis=1))
    points = centres[placed]
    lattice = None if kind == "delaunay" or len(points) < 2 else find_lattice(points)
    if lattice is None and kind == "lattice":
        msg = "the centres lie neither on a square nor on a hexagonal lattice; use graph='delaunay' for cells"
        raise ValueError(msg)
    if lattice is not None:
        pairs = cKDTree(points).query_pairs(_REACH[lattice.kind] * lattice.pitch, output_type="ndarray")
        rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    else:
        rows, columns = _triangulate(points)
    length = np.linalg.norm(points[rows] - points[columns], axis=1)
    keep = length > 0
    if radius is not None and lattice is None:
        keep &= length <= radius
    return csr_matrix((length[keep], (placed[rows[keep]], placed[columns[keep]])), shape=(n, n))


def _triangulate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        begin, columns = Delaunay(points).vertex_neighbor_vertices
    except (QhullError, ValueError) as error:
        msg = (
            f"{len(points)} centres cannot be triangulated (too few, or all on one line); use context='spot', which "
            "needs no neighbours"
        )
        raise ValueError(msg) from error
    return np.repeat(np.arange(len(points)), np.diff(begin)), columns


def restrict(graph: csr_matrix, keep: np.ndarray) -> csr_matrix:
    """The graph with the edges between kept spots only; its shape stays."""
    edges = graph.tocoo()
    inside = keep[edges.row] & keep[edges.col]
    return csr_matrix((edges.data[inside], (edges.row[inside], edges.col[inside])), shape=graph.shape)


def neighbourhoods(graph: csr_matrix, hops: int) -> csr_matrix:
    """Spots at a walk of ``hops`` or ``hops - 1`` edges from each spot, and the spot itself: shape (n, n), sorted.

    With two hops these are the neighbours, their neighbours and the spot: Novae's local graph.
    """
    step = csr_matrix((np.ones_like(graph.data, dtype=np.float32), graph.indices, graph.indptr), shape=graph.shape)
    diagonal = csr_matrix((np.ones(graph.shape[0], np.float32), (np.arange(graph.shape[0]),) * 2), shape=graph.shape)
    reach = step + diagonal
    for _ in range(hops - 1):
        reach = reach @ step
        reach.data[:] = 1
    reach = (reach + diagonal).tocsr()
    reach.sort_indices()
    return reach


def small_graphs(incoming: csr_matrix, reach: csr_matrix, rows: np.ndarray) -> SmallGraphs:
    """Cut out the graphs of some spots.

    Parameters
    ----------
    incoming
        Lengths of edges, row = the spot that the edge goes to, shape (n, n).
    reach
        Members of each spot's graph, sorted, shape (n, n); see :func:`neighbourhoods`.
    rows
        Spots, shape (b,).

    Returns
    -------
    SmallGraphs
    """
    n = incoming.shape[0]
    nodes, first = _rows_of(reach, rows)
    graph = np.repeat(np.arange(len(rows)), np.diff(first))
    # A slot is found by (graph, spot); graphs follow each other and their members are sorted, so these keys are sorted.
    keys = graph * n + nodes
    at, begin = _rows_of(incoming, nodes, values=False)
    target = np.repeat(np.arange(len(nodes)), np.diff(begin))
    wanted = graph[target] * n + incoming.indices[at]
    slot = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    inside = keys[slot] == wanted
    target, source, length = target[inside], slot[inside], incoming.data[at[inside]].astype(np.float32)
    degree = np.bincount(target, minlength=len(nodes))
    total = np.bincount(target, weights=length, minlength=len(nodes))
    own = np.divide(total, degree, out=np.zeros(len(nodes)), where=degree > 0).astype(np.float32)
    # One edge more for each slot, after its others.
    begin = np.concatenate([[0], np.cumsum(degree + 1)])
    loops = begin[1:] - 1
    others = np.ones(begin[-1], dtype=bool)
    others[loops] = False
    all_source, all_length = np.empty(begin[-1], dtype=np.int64), np.empty(begin[-1], dtype=np.float32)
    all_source[loops], all_source[others] = np.arange(len(nodes)), source
    all_length[loops], all_length[others] = own, length
    return SmallGraphs(nodes.astype(np.int64), first, all_source, begin, all_length)


def _rows_of(matrix: csr_matrix, rows: np.ndarray, *, values: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Column indices of some rows one after the other (or their places in ``indices``), and where each row begins."""
    count = np.diff(matrix.indptr)[rows]
    first = np.concatenate([[0], np.cumsum(count)])
    at = np.arange(first[-1]) + np.repeat(matrix.indptr[rows] - first[:-1], count)
    return (matrix.indices[at] if values else at), first
