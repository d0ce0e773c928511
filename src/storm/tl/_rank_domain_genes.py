"""``storm.tl.rank_domain_genes``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm import __version__, _keys
from storm._bridge.keys import Keys
from storm._bridge.placed import Labels, Places
from storm._bridge.pool import open_pool
from storm._checks import check_between, check_choice, check_extra, check_new_key, check_whole, domain_names
from storm._logging import warn
from storm.biology.contacts import count_contacts
from storm.biology.contrasts import Contrast, contrast
from storm.biology.depth import depth_ratio, equal_depth, uneven_depth
from storm.biology.distances import distance_bins, typical_pitch
from storm.biology.pseudobulk import LEAST_SECTIONS, LEAST_SPOTS, PairedTest, paired_test, usable_sections
from storm.data.contacts import contact_edges
from storm.data.normalise import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

#: Spots of a domain and of its reference that a test needs.
_LEAST_ROWS = 2
#: Entries of ``uns`` that mean something to others, or to STORM.
_RESERVED = (_keys.UNS, _keys.CHECK, "spatial", "spatialdata_attrs", "log1p")

#: The name that its records bear.
_NAME = "storm.tl.rank_domain_genes"


def rank_domain_genes(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    key: str = _keys.DOMAIN,
    reference: str | Sequence[str] = "adjacent",
    *,
    groups: Literal["all"] | str | Sequence[str] = "all",
    layer: str | None = None,
    normalise: bool | Literal["auto"] = "auto",
    test: Literal["wilcoxon", "pseudobulk"] = "wilcoxon",
    min_pct: float = 0.0,
    match_depth: bool = False,
    spatial: bool = True,
    library_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    min_share: float = 0.05,
    min_edges: int = 3,
    seed: int = 0,
    key_added: str = _keys.RANKED_GENES,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Rank the genes that set a domain apart from what lies beside it.

    The result has scanpy's shape, so that ``sc.get.rank_genes_groups_df``, ``sc.pl.rank_genes_groups_dotplot`` and
    others work on it.

    **What the p-values mean.** ``pvals`` treats spots as independent, which they are not: of genes that have nothing to
    do with a domain but vary smoothly over the tissue, it calls a quarter to more than a half significant.
    ``p_spatial`` widens the null distribution by the autocorrelation of the ranks, and holds genes that are seen in a
    handful of spots to an exact test of where they are seen. That is much closer to its level,
    and still too liberal for genes that vary over more than two spots (the page *From domains to biology* has the
    table). Neither knows that the domains may have been clustered from the same counts: then some genes differ by
    construction, and these tests describe the domains, but prove nothing. Domains from the H&E alone
    (``storm.tl.embed(modality="he")``) are free of that, and from three sections on ``test="pseudobulk"`` counts
    sections instead of spots.

    Parameters
    ----------
    data
        Object whose table holds ``obs[key]`` and expression. A list of objects is ranked together, by the genes that
        all of them have, and each table gets the same result.
    key
        Column of ``obs`` with the domains; rows without one are left out, also of the reference.
    reference
        ``"adjacent"``: the union of the domains that :func:`storm.tl.adjacent_domains` finds adjacent to each;
        ``"rest"``: all other domains; or the names of one or several domains.
    groups
        Domains to test; ``"all"`` of them, or names.
    layer
        Layer with the expression; ``None`` for ``X``, ``"raw"`` for ``table.raw``.
    normalise
        Whether the values are counts, of which log1p of counts per 10,000 is tested; ``"auto"`` takes whole numbers for
        counts, and others as they are. The table keeps its values.
    test
        ``"wilcoxon"``: rank-sum test of spots, with correction for ties; ``"pseudobulk"``: counts summed per section
        and side, tested by PyDESeq2 with the design ``~ section + side``, for at least three sections that have ten
        spots of either side.
    min_pct
        Share of the spots, of the domain or of the reference, in which a gene that is tested was seen at least. Other
        genes, and always those that neither side has, get NaN: they were not tested.
    match_depth
        Whether counts are thinned at random, for each comparison anew, until spots of the domain and of its reference
        have the same distribution of total counts. Where one side is deeper, its genes are seen more often, and the
        ranks of nearly all of them are higher, whatever they are; normalising does not mend that. It needs counts, and
        costs those that it drops; all columns of the result are of the counts that are left. ``"pseudobulk"`` allows
        for depth by itself.
    spatial
        Whether to compute ``p_spatial``, which needs places.
    library_key, table_key, shapes_key, coordinate_system
        Sections and elements, as in :func:`storm.tl.adjacent_domains`.
    min_share, min_edges
        What makes a domain adjacent, as in :func:`storm.tl.adjacent_domains`.
    seed
        Random seed of the pairs of spots from which the autocorrelation of a large section is estimated, and of
        ``match_depth``.
    key_added
        Key of the result in ``uns``, by default the one that scanpy's functions read. A ranking of this function is
        replaced, one of scanpy is not.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets ``uns[key_added]`` with scanpy's entries
        (``names``, ``scores``, ``logfoldchanges``, ``pvals``, ``pvals_adj``, by falling score; ``pts``, ``pts_rest``,
        unless the name of a domain has a ``"/"``, which no column of a stored frame may have) and

        - ``auc``: probability that a spot of the domain has a higher value than one of the reference,
        - ``p_spatial``, ``p_spatial_adj``: the spatial test, and its Benjamini-Hochberg rate,
        - ``share``, ``share_reference``: the shares of ``pts`` and ``pts_rest``, in the order of the scores,

        and ``uns["storm"][key_added]`` with parameters and ``references``, a data frame of the domains that each is
        compared with. A table of one row per gene comes from :func:`storm.get.rank_domain_genes`.

    Raises
    ------
    KeyError
        If there is no such column, layer or element.
    ValueError
        If there is nothing to compare, a name is not a domain, values are neither counts nor on a log scale, sections
        are too few for ``"pseudobulk"``, or ``key_added`` is taken by something else.
    TypeError
        If ``groups`` or ``reference`` is neither text nor a list of it.
    ImportError
        If PyDESeq2 is not installed for ``test="pseudobulk"``.

    Warns
    -----
    UserWarning
        If domains cannot be tested, or spots of a domain have half as many genes again as those of its reference, or
        the other way round, and ``match_depth`` was not asked for; if fractions are taken for values on the log scale.

    Examples
    --------
    Genes of each domain against the domains that touch it:

    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> storm.tl.rank_domain_genes(sdata, "domain")
    >>> genes = storm.get.rank_domain_genes(sdata, "immune infiltrate")
    >>> genes.columns.tolist()[:5]
    ['group', 'names', 'scores', 'logfoldchanges', 'pvals']
    """
    check_choice(test, ("wilcoxon", "pseudobulk"), name="test")
    check_between(min_pct, name="min_pct", low=0, high=1)
    check_between(min_share, name="min_share", low=0, high=1)
    check_whole(min_edges, name="min_edges")
    check_whole(seed, name="seed", least=0)
    check_new_key(key_added, reserved=_RESERVED)
    if not isinstance(match_depth, bool) or (match_depth and test == "pseudobulk"):
        msg = f"match_depth={match_depth!r} with test={test!r}: give True or False; pseudobulks allow for depth already"
        raise ValueError(msg)
    if test == "pseudobulk":
        check_extra("pydeseq2", extra="pseudobulk", purpose='test="pseudobulk"')
    keys = Keys(table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, layer=layer)
    pool = open_pool(data, keys, library_key=library_key, copy=copy)
    for table in pool.tables:
        _check_replaceable(table.uns, key_added)
    pool.check_record_added(key_added, made_by=_NAME)
    labels = pool.labels(key, least=2)
    wanted = _names(groups, labels, name="groups")
    kind = reference if isinstance(reference, str) else "named"
    needs_places = spatial or kind == "adjacent" or test == "pseudobulk"
    places = pool.places() if needs_places else None
    against = _references(reference, wanted, labels, places, min_share=min_share, min_edges=min_edges)
    sides = _sides(wanted, against, labels, whole=kind == "rest")
    if match_depth:
        counts, genes = pool.counts_to_thin(layer, normalise=normalise)
        normalised = True
    else:
        values, genes, normalised = pool.log_values(layer, normalise=normalise)

    contrasts, ratios = {}, {}
    pitch = float("nan") if places is None else typical_pitch(places.centres, places.sections)
    for name, (rows, domain) in sides.items():
        bins = None
        if spatial and test == "wilcoxon" and places is not None:
            bins = distance_bins(places.centres[rows], domain, pitch=pitch, sections=places.sections[rows], seed=seed)
        own = log_normalise(equal_depth(counts[rows], domain, seed=seed)) if match_depth else values[rows]
        ratios[name] = depth_ratio(own, domain)
        contrasts[name] = contrast(own, domain, bins=bins, min_pct=min_pct)
    if test == "wilcoxon" and not match_depth and (uneven := uneven_depth(ratios)):
        warn(uneven)
    paired: dict[str, PairedTest] = {}
    if test == "pseudobulk":
        assert places is not None  # they tell the sections apart
        del values
        counts, counted = pool.counts(layer)
        assert (counted == genes).all()  # both read the same matrices
        paired = {
            name: _paired(counts[rows], domain, places, rows, name, tested=np.isfinite(contrasts[name].z))
            for name, (rows, domain) in sides.items()
        }

    result = _as_scanpy(contrasts, paired, genes)
    result["params"] = {
        "groupby": key,
        "reference": reference if isinstance(reference, str) else ", ".join(map(str, reference)),
        "method": test,
        "use_raw": False,
        "layer": layer,
        "corr_method": "benjamini-hochberg",
    }
    facts = {
        "storm_version": __version__,
        _keys.MADE_BY: _NAME,
        "key": key,
        "test": test,
        "references": pd.DataFrame(
            [(name, other) for name in contrasts for other in against[name]], columns=["group", "reference"]
        ),
        "normalised": normalised,
        "min_pct": min_pct,
        "match_depth": match_depth,
        "depth_ratio": list(ratios.values()),  # in the order of the domains
        "spatial": spatial and test == "wilcoxon",
        "library_key": pool.library_key,
        "seed": seed,
    }
    if paired:
        facts["n_sections"] = [len(one.sections) for one in paired.values()]  # in the order of the domains
    pool.write(uns={key_added: facts | pool.facts})
    for table in pool.tables:
        table.uns[key_added] = dict(result)
    return pool.copies(data) if copy else None


def _check_replaceable(uns: Mapping[str, Any], key_added: str) -> None:
    """Raise if the key holds something else than a ranking of this function, which a new one replaces."""
    old = uns.get(key_added)
    entries = set(old) if isinstance(old, Mapping) else set()
    if old is None or {"params", "names", "auc"} <= entries:
        return
    holds = "a ranking that scanpy wrote" if {"params", "names"} <= entries else "no ranking of genes"
    msg = (
        f"key_added={key_added!r}: uns[{key_added!r}] exists and holds {holds}; choose another key_added, or remove "
        f"that entry first"
    )
    raise ValueError(msg)


def _names(given: str | Sequence[str], labels: Labels, *, name: str) -> list[str]:
    """Names of domains as a list; raise if one is none."""
    if isinstance(given, str) and given == "all" and name == "groups":
        return list(labels.names)
    names = domain_names(given, name=name)
    if not names or (unknown := [one for one in names if one not in labels.names]):
        listed = ", ".join(map(repr, unknown)) if names else "nothing"
        msg = f"{name} names {listed}, and the domains are: {', '.join(map(repr, labels.names))}"
        raise ValueError(msg)
    return names


def _references(
    reference: str | Sequence[str],
    groups: list[str],
    labels: Labels,
    places: Places | None,
    *,
    min_share: float,
    min_edges: int,
) -> dict[str, list[str]]:
    """Domains that each domain is compared with; none for a domain that touches no other."""
    if isinstance(reference, str) and reference == "rest":
        return {group: [name for name in labels.names if name != group] for group in groups}
    if not isinstance(reference, str) or reference != "adjacent":
        named = _names(reference, labels, name="reference")
        return {group: [name for name in named if name != group] for group in groups}
    assert places is not None  # read for this
    edges = contact_edges(places.centres, places.sections)
    contacts = count_contacts(edges, labels.codes, len(labels.names), sections=places.sections)
    touching = contacts.adjacent(min_share=min_share, min_edges=min_edges)
    return {group: [labels.names[j] for j in np.flatnonzero(touching[labels.names.index(group)])] for group in groups}


def _sides(
    groups: list[str], against: Mapping[str, list[str]], labels: Labels, *, whole: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows of each comparison, and which of them are the domain's; domains that cannot be compared are warned of.

    ``whole`` says that the reference of each is all the rest already.
    """
    sides, left_out, larger = {}, [], False
    for group in groups:
        number = labels.names.index(group)
        others = [labels.names.index(name) for name in against[group]]
        rows = np.flatnonzero((labels.codes == number) | np.isin(labels.codes, others))
        domain = labels.codes[rows] == number
        if domain.sum() < _LEAST_ROWS:
            left_out.append(f"{group!r} has fewer than {_LEAST_ROWS} spots")
        elif (~domain).sum() < _LEAST_ROWS:
            reason = f"a reference of fewer than {_LEAST_ROWS} spots" if others else "no domain to be compared with"
            left_out.append(f"{group!r} has {reason}")
            larger = not whole  # then more of the other domains would do
        else:
            sides[group] = (rows, domain)
    if not sides:
        rest = ", or give reference='rest'" if larger else ""
        msg = f"no domain can be tested: {'; '.join(left_out)}; name larger domains, or others{rest}"
        raise ValueError(msg)
    if left_out:
        warn(f"not tested: {'; '.join(left_out)}")
    return sides


def _paired(
    counts: csr_matrix, domain: np.ndarray, places: Places, rows: np.ndarray, name: str, *, tested: np.ndarray
) -> PairedTest:
    sections = places.sections[rows]
    used = usable_sections(sections, domain)
    if len(used) < LEAST_SECTIONS:
        sizes = {
            str(places.names[s] if places.names else s): f"{(domain & (sections == s)).sum()} and "
            f"{(~domain & (sections == s)).sum()}"
            for s in np.unique(sections)
        }
        listed = ", ".join(f"{section!r} {size}" for section, size in sizes.items())
        msg = (
            f"test='pseudobulk' needs at least {LEAST_SECTIONS} sections with {LEAST_SPOTS} spots of domain {name!r} "
            f"and of its reference; spots of either: {listed}. Name the column of the sections with library_key=, or "
            f"use test='wilcoxon'"
        )
        raise ValueError(msg)
    return paired_test(counts, domain, sections, genes=tested)


def _as_scanpy(
    contrasts: Mapping[str, Contrast], paired: Mapping[str, PairedTest], genes: np.ndarray
) -> dict[str, Any]:
    """Entries of ``uns["rank_genes_groups"]``: structured arrays with a field per domain, by falling score."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    for name, one in contrasts.items():
        tested: Contrast | PairedTest = paired.get(name, one)
        order = np.argsort(-np.where(np.isnan(tested.z), -np.inf, tested.z), kind="stable")
        entries = {
            "names": genes.astype(object),
            "scores": tested.z.astype(np.float32),
            "logfoldchanges": tested.log2_fold_change.astype(np.float32),
            "pvals": tested.p,
            "pvals_adj": tested.p_adjusted,
            "auc": one.auc,
            "p_spatial": one.p_spatial,
            "p_spatial_adj": one.p_spatial_adjusted,
            "share": one.pts,
            "share_reference": one.pts_reference,
        }
        for entry, values in entries.items():
            columns.setdefault(entry, {})[name] = values[order]
    result: dict[str, Any] = {}
    for entry, by_name in columns.items():
        kind = next(iter(by_name.values())).dtype
        records = np.empty(len(genes), dtype=[(name, kind) for name in by_name])
        for name, values in by_name.items():
            records[name] = values
        result[entry] = records.view(np.recarray)
    if any("/" in name for name in contrasts):  # then no column can have the name
        return result
    index = pd.Index(genes)
    result["pts"] = pd.DataFrame({name: one.pts for name, one in contrasts.items()}, index=index)
    result["pts_rest"] = pd.DataFrame({name: one.pts_reference for name, one in contrasts.items()}, index=index)
    return result
