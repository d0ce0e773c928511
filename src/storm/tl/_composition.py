"""``storm.tl.composition``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm import __version__, _keys
from storm._bridge.counts import named_elsewhere
from storm._bridge.keys import Keys
from storm._bridge.placed import Labels, Places
from storm._bridge.pool import open_pool
from storm._bridge.signature import signature_frame
from storm._checks import check_choice
from storm._logging import warn
from storm.biology.composition import Mixture, marker_scores, nnls, nusvr
from storm.biology.depth import depth_ratio, equal_depth, uneven_depth
from storm.biology.distances import distance_bins, typical_pitch
from storm.biology.ranks import benjamini_hochberg
from storm.biology.type_tests import compare_types
from storm.data.normalise import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

#: Share of a signature's genes below which its types are hardly told apart.
_HALF = 0.5


def composition(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    signature: pd.DataFrame | Mapping[str, Iterable[str]] | AnnData | str | Path,
    *,
    method: Literal["nnls", "nusvr", "markers"] = "nnls",
    key: str | None = None,
    label_key: str | None = None,
    layer: str | None = None,
    normalise: bool | Literal["auto"] = "auto",
    match_depth: bool = False,
    spatial: bool = True,
    library_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    seed: int = 0,
    key_added: str = _keys.X_COMPOSITION,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Estimate the cell types of spots from a signature, and compare them between domains.

    ``"nnls"`` explains the expression of each spot by non-negative shares of the signature's types, on a linear scale.
    ``"markers"`` scores each type by the mean log expression of its markers: comparable between spots, not between
    types. ``"nusvr"`` is CIBERSORT's regression and takes 20 ms a mixture, so that it is run on the domains as a whole.

    A signature knows the types that are in it: what else a spot holds (tumour cells, for a signature of immune cells)
    is explained by whatever resembles it most. The fractions are *among the types of the signature*, and the residual
    says how much of a spot they do not explain.

    Parameters
    ----------
    data
        Object with expression. Of a list of objects, the genes are read that all of them have, and the domains are
        tested over the spots of all of them.
    signature
        For ``"nnls"`` and ``"nusvr"`` a data frame of genes × types on a linear scale, such as
        :func:`storm.datasets.signatures` returns, or the path of one (LM22 has that shape), or an AnnData of single
        cells with counts and types. For ``"markers"`` lists of genes by type, or a data frame of 0 and 1.
    method
        ``"nnls"``, ``"nusvr"`` (needs ``key``) or ``"markers"``.
    key
        Column of ``obs`` with domains: their means are stored, and each is tested against all other spots that have a
        domain. ``None`` tests nothing.
    label_key
        Column of the types in ``obs`` of an AnnData ``signature``.
    layer, normalise
        Expression to read, as in :func:`storm.tl.rank_domain_genes`.
    match_depth
        Whether domains are tested on counts thinned to equal depth, as in :func:`storm.tl.rank_domain_genes`: scores of
        markers, and fractions where depths differ much, follow the depth. The stored values and means are of all
        counts.
    spatial
        Whether to compute ``p_spatial``, which needs places.
    library_key, table_key, shapes_key, coordinate_system
        Sections and elements, as in :func:`storm.tl.adjacent_domains`.
    seed
        Random seed of the pairs of spots of a large section and of ``match_depth``, as in
        :func:`storm.tl.rank_domain_genes`.
    key_added
        Key of the result.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets

        - ``obsm[key_added]``: float32, shape (n_obs, types): fractions of sum 1, NaN where no type explains anything;
          or scores for ``"markers"``; not for ``"nusvr"``,
        - ``obs["<key_added>_residual"]``: what the types do not explain, as a share of the spot's norm, 0 to 1; for
          ``"nnls"`` only,
        - ``uns["storm"][key_added]``: parameters, ``types``, genes of the signature and how many were found, and with
          ``key`` a data frame of one row per domain and type, which :func:`storm.get.composition_tests` returns:
          ``group``, ``type``, ``mean``, ``mean_rest``, ``rank_biserial``, ``pvals``, ``pvals_adj``, ``p_spatial``,
          ``p_spatial_adj`` (rates over all domains and types). For ``"nusvr"`` it has ``mean`` (of the domain's mean
          normalised expression) and ``residual`` only.

    Raises
    ------
    KeyError
        If there is no such column, layer or element.
    ValueError
        If no gene of the signature is in the table, or was seen in any spot; the signature has negative values;
        ``method`` needs markers and the signature is expression, or the other way round; or ``key_added`` holds a
        result of another method of which a part would stay beside the new one.
    TypeError, FileNotFoundError
        If ``signature`` is something else, or no such file.

    Warns
    -----
    UserWarning
        If less than half of the signature's genes are in the table, none of a type's is, spots of a domain are much
        deeper or shallower than the others, or fractions are taken for values on the log scale.

    Examples
    --------
    Scores of cell types by their markers, and how they differ between domains:

    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> markers = {"B cells": ["MS4A1", "CD79A", "CD19"], "adipocytes": ["ADIPOQ", "PLIN1", "FABP4"]}
    >>> storm.tl.composition(sdata, markers, method="markers", key="domain")
    >>> storm.get.composition(sdata).shape
    (300, 2)
    """
    check_choice(method, ("nnls", "nusvr", "markers"), name="method")
    if method == "nusvr" and key is None:
        msg = "method='nusvr' works on domains: name their column with key=, or use method='nnls'"
        raise ValueError(msg)
    if not isinstance(match_depth, bool) or (match_depth and (key is None or method == "nusvr")):
        msg = f"match_depth={match_depth!r} is for the tests of domains by 'nnls' or 'markers', with key="
        raise ValueError(msg)
    frame = signature_frame(signature, label_key=label_key)
    _check_kind(frame, method)
    residual_key = f"{key_added}_residual"
    keys = Keys(table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, layer=layer)
    pool = open_pool(
        data, keys, library_key=library_key, copy=copy, keys_added={"obsm": [key_added], "obs": [residual_key]}
    )
    for table in pool.tables:
        _check_replaced(table, method, key_added, residual_key)
    labels = None if key is None else pool.labels(key)
    places = pool.places() if key is not None and spatial else None
    counts = pool.counts_to_thin(layer, normalise=normalise)[0] if match_depth else None
    values, genes, normalised = pool.log_values(layer, normalise=normalise)
    columns, frame, facts = _match(frame, genes, pool.tables[0])
    facts |= {
        "storm_version": __version__,
        "method": method,
        "types": list(frame.columns),
        "key": key,
        "normalised": normalised,
        "library_key": pool.library_key,
    }
    results: dict[str, Any] = {}
    if method == "nusvr":
        assert labels is not None  # checked above
        facts[_keys.TABLE] = _of_domains(values[:, columns], frame, labels)
    else:
        if not (values[:, columns].data > 0).any():
            msg = f"none of the signature's {len(columns)} genes that are in the table was seen in any spot"
            raise ValueError(msg)
        shares, residual = _of_spots(values[:, columns], frame, method)
        results = {"obsm": {key_added: shares}} | ({} if residual is None else {"obs": {residual_key: residual}})
        if labels is not None:

            def again(rows: np.ndarray, domain: np.ndarray) -> np.ndarray:
                """Types of some spots, of counts thinned to equal depth if they are to be."""
                if counts is None or domain.all():
                    return shares[rows]
                thinned = log_normalise(equal_depth(counts[rows], domain, seed=seed))
                return _of_spots(thinned[:, columns], frame, method)[0]

            facts[_keys.TABLE] = _tests(shares, list(frame.columns), labels, places, seed=seed, again=again)
            facts["match_depth"] = match_depth
            known = np.flatnonzero(labels.codes >= 0)
            ratios = _depth_ratios(values[known], labels.codes[known], labels.names)
            if not match_depth and (uneven := uneven_depth(ratios)):
                warn(uneven)
    uns = {key_added: facts | pool.facts} | (
        {residual_key: {"residual_of": key_added}} if residual_key in results.get("obs", {}) else {}
    )
    pool.write(uns=uns, **results)
    return pool.copies(data) if copy else None


def _check_kind(frame: pd.DataFrame, method: str) -> None:
    """Raise if a method gets expression in place of markers, or the other way round."""
    marked = bool(frame.isin([0, 1]).all(axis=None))
    if method == "markers" and not marked:
        msg = (
            "method='markers' takes lists of genes by type, or a table of 0 and 1; the signature holds other values, "
            "expression, of which every gene would be a marker of nearly every type: use method='nnls'"
        )
        raise ValueError(msg)
    if method != "markers" and marked:
        msg = (
            f"method={method!r} takes expression on a linear scale, and the signature holds markers, 0 and 1: use "
            f"method='markers'"
        )
        raise ValueError(msg)


def _check_replaced(table: AnnData, method: str, key_added: str, residual_key: str) -> None:
    """Raise if a part of an earlier result, which this method does not write, would stay beside the new one."""
    stale = [f"obsm[{key_added!r}]"] if method == "nusvr" and key_added in table.obsm else []
    if method != "nnls" and residual_key in table.obs:
        stale.append(f"obs[{residual_key!r}]")
    if stale:
        msg = (
            f"key_added={key_added!r} holds the result of another method, of which {' and '.join(stale)} would stay "
            f"beside that of method={method!r}; choose another key_added, or delete it first"
        )
        raise ValueError(msg)


def _match(frame: pd.DataFrame, genes: np.ndarray, table: AnnData) -> tuple[np.ndarray, pd.DataFrame, dict[str, Any]]:
    """Columns of the table that the signature names, the signature of these genes, and how many there are."""
    place = {gene: at for at, gene in enumerate(genes)}
    found = [gene for gene in frame.index if gene in place]
    if not found:
        msg = (
            f"none of the signature's {len(frame)} genes is in the table: it names genes like {list(frame.index[:3])}, "
            f"the table like {list(map(str, genes[:3]))}; both need symbols of the same species"
            f"{named_elsewhere(table, frame.index)}"
        )
        raise ValueError(msg)
    if len(found) < _HALF * len(frame):
        msg = f"only {len(found)} of the signature's {len(frame)} genes are in the table: types are hardly told apart"
        warn(msg)
    own = frame.loc[found]
    if lost := [str(name) for name in own.columns[(own == 0).all()]]:
        msg = f"no gene of {', '.join(map(repr, lost))} is in the table, so that these types cannot be seen"
        warn(msg)
    facts = {"n_genes": len(frame), "n_genes_found": len(found)}
    return np.array([place[gene] for gene in found]), own, facts


def _linear(values: csr_matrix) -> csr_matrix:
    linear = values.astype(np.float64)
    linear.data = np.expm1(linear.data)
    return linear


def _depth_ratios(values: csr_matrix, codes: np.ndarray, names: list[str]) -> dict[str, float]:
    """Genes per spot of each domain over those of all others; none for a domain that is alone."""
    sides = {name: codes == code for code, name in enumerate(names)}
    return {name: depth_ratio(values, domain) for name, domain in sides.items() if 0 < domain.sum() < len(codes)}


def _of_spots(values: csr_matrix, frame: pd.DataFrame, method: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores of markers; or fractions, and what they leave unexplained."""
    if method == "markers":
        markers = {name: np.flatnonzero(frame[name].to_numpy() > 0) for name in frame.columns}
        return marker_scores(values, markers), None
    mixture = nnls(frame.to_numpy(), _linear(values))
    return mixture.fractions, np.sqrt(1 - mixture.explained)


def _of_domains(values: csr_matrix, frame: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Types of each domain as a whole."""
    linear = _linear(values)
    means = [np.asarray(linear[labels.codes == code].mean(axis=0)).ravel() for code in range(len(labels.names))]
    mixture: Mixture = nusvr(frame.to_numpy(), np.stack(means))
    residual = np.sqrt(np.maximum(1 - mixture.explained, 0))
    return pd.DataFrame(
        {
            "group": np.repeat(np.array(labels.names, dtype=object), frame.shape[1]),
            "type": np.tile(frame.columns.to_numpy(dtype=object), len(labels.names)),
            "mean": mixture.fractions.ravel(),
            "residual": np.repeat(residual, frame.shape[1]),
        }
    )


def _tests(
    shares: np.ndarray,
    types: list[str],
    labels: Labels,
    places: Places | None,
    *,
    seed: int,
    again: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> pd.DataFrame:
    """Each domain against all other spots that have a domain, type by type.

    ``again`` gives what is tested of some rows, of which some are a domain's.
    """
    seen = np.isfinite(shares).any(axis=0)
    rows = np.flatnonzero((labels.codes >= 0) & np.isfinite(shares[:, seen]).all(axis=1))
    pitch = float("nan") if places is None else typical_pitch(places.centres, places.sections)
    frames = []
    for code, name in enumerate(labels.names):
        domain = labels.codes[rows] == code
        tested, bins = again(rows, domain)[:, seen], None
        known = np.isfinite(tested).all(axis=1)  # thinned, a spot may be left with nothing
        own, side = rows[known], domain[known]
        if places is not None:
            bins = distance_bins(places.centres[own], side, pitch=pitch, sections=places.sections[own], seed=seed)
        test = compare_types(tested[known], side, bins)
        columns = {
            "mean": shares[rows[domain]].mean(axis=0) if domain.any() else np.full(len(types), np.nan),
            "mean_rest": shares[rows[~domain]].mean(axis=0) if not domain.all() else np.full(len(types), np.nan),
        }
        for column, part in (("rank_biserial", test.rank_biserial), ("pvals", test.p), ("p_spatial", test.p_spatial)):
            columns[column] = np.full(len(types), np.nan)
            columns[column][seen] = part
        frames.append(pd.DataFrame({"group": name, "type": types, **columns}))
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(6, "pvals_adj", benjamini_hochberg(frame["pvals"].to_numpy()))
    frame["p_spatial_adj"] = benjamini_hochberg(frame["p_spatial"].to_numpy())
    return frame
