"""``storm.benchmark.domains``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm._bridge import spots_of
from storm._bridge.keys import Keys
from storm._checks import check_choice, check_whole
from storm._inference.device import Compute
from storm._loading import StormModel, load_model
from storm._progress import progress
from storm.benchmark._inputs import LabelledSection, given_embeddings, labelled_sections, numbers_of
from storm.benchmark._methods import COMPARATORS, DEFAULT, READ_OUTS, TILES, k_means
from storm.benchmark._representations import Represented, Workshop
from storm.benchmark._summary import SCORES
from storm.data.components import finite_rows
from storm.metrics.domains import score_domains

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._types import Wanted


def domains(
    sections: SpatialData | AnnData | Sequence[SpatialData | AnnData] | Mapping[str, SpatialData | AnnData],
    methods: Sequence[str] | None = None,
    *,
    truth: str,
    embeddings: Mapping[str, str | np.ndarray | Sequence[np.ndarray]] | None = None,
    n_domains: int | Literal["classes"] | Iterable[int] = "classes",
    seeds: Iterable[int] = range(5),
    unlabelled: str | Collection[str] = (),
    model: str | Path | StormModel = "storm-mini",
    library_key: str | None = None,
    image_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Compare methods for spatial domains on annotated sections.

    Every method sees a section by itself and never its labels. Its representation is clustered by k-means with ten
    starts, as :func:`storm.tl.domains` does (``"aggregated_mixture"`` by a Gaussian mixture, ``"graph_convolution"`` by
    deep embedded clustering), once for each number of domains and seed. Rows without a label take part in the
    clustering and are left out of the agreement. Nothing is written into the sections.

    Parameters
    ----------
    sections
        One section or several, also by name. Those of one table are told apart by ``library_key``.
    methods
        Names out of :func:`storm.benchmark.methods`; ``None`` for ``methods("default")``, an empty list for none.
    truth
        Column of ``obs`` with the annotation; missing values are rows without one.
    embeddings
        Embeddings of your own by name, to be clustered and scored like the methods: a key of ``obsm`` that all tables
        have, or an array for each section, shape (n, d). Rows of NaN get no domain.
    n_domains
        Number of domains to look for, several, or ``"classes"``: as many as a section has annotated classes.
    seeds
        Seeds of the clustering.
    unlabelled
        Values of ``truth`` that mean "no annotation", such as ``"undetermined"``.
    model
        The model of STORM's read-outs. It must not have been trained on the sections.
    library_key, image_key, table_key, shapes_key, coordinate_system, um_per_px, layer, device, batch_size
        As in :func:`storm.tl.embed`.

    Returns
    -------
    DataFrame
        A row per method, section, number of domains and seed: ``method``, ``section``, ``n_domains``, ``n_classes``,
        ``seed``, the eight scores of :func:`storm.metrics.score_domains` (``ari``, ``nmi``, ``fmi``, ``homogeneity``,
        ``completeness``, ``chaos``, ``pas``, ``asw``), ``n_scored`` (rows with a label and a domain) and ``seconds`` of
        the representation, without clustering (NaN for embeddings of your own).

    Raises
    ------
    KeyError
        If a column, element or key does not exist.
    ValueError
        If a method is unknown, a section has fewer than two classes, or embeddings do not fit; before anything is
        computed. If a method cannot run on a section, naming both.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> table = storm.benchmark.domains(sdata, ["storm_st", "smoothing"], truth="domain", seeds=[0])
    >>> storm.benchmark.summary(table)[["method", "ari"]].shape
    (2, 2)

    Notes
    -----
    The comparators hold the genes of a section densely (2,000, the neighbour-augmented ones three times as many): they
    are meant for sections of up to some 50,000 rows. ``"graph_attention"`` is fitted anew to every section, half a
    minute of a core for 350 spots and tens of minutes for 3,600, and therefore is not among the default methods.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *spatial domain discovery*.
    """
    names = (
        list(DEFAULT) if methods is None else list(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    )
    every = (*READ_OUTS, *TILES, *COMPARATORS)
    for name in names:
        check_choice(name, every, name="methods")
    if not isinstance(seeds, Iterable):
        msg = f"seeds={seeds!r} is a {type(seeds).__name__}; give several, for example range(5)"
        raise TypeError(msg)
    wanted_seeds = [check_whole(seed, name="seeds", least=0) for seed in seeds]
    if not wanted_seeds:
        msg = "seeds is empty; give for example range(5)"
        raise ValueError(msg)
    keys = Keys(
        image_key=image_key, table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system,
        um_per_px=um_per_px, layer=layer,
    )  # fmt: skip
    compute = Compute.of(device, batch_size=batch_size)
    labelled = labelled_sections(
        sections, keys, truth=truth, unlabelled=[unlabelled] if isinstance(unlabelled, str) else unlabelled,
        library_key=library_key, image=_wanted_image(names),
    )  # fmt: skip
    own = given_embeddings(embeddings or {}, labelled, taken=every)
    numbers = numbers_of(n_domains, labelled)
    if not names and not own:
        msg = "there is nothing to compare: methods and embeddings are empty"
        raise ValueError(msg)
    loaded = load_model(model) if any(name in READ_OUTS or name in TILES for name in names) else None
    rows: list[dict[str, Any]] = []
    bar = progress(total=len(labelled) * (len(names) + len(own)), desc="methods", unit="run")
    with bar:
        for position, (one, wanted) in enumerate(zip(labelled, numbers, strict=True)):
            selection = one.section.open()
            centres = spots_of(selection.without_image(), counts=False).centres
            workshop = Workshop(selection, loaded, compute)
            for name in (*names, *own):
                try:
                    if name in own:
                        represented = Represented(own[name][position], k_means, float("nan"))
                    else:
                        represented = workshop.run(name)
                    scores = _scores(represented, one, centres, numbers=wanted, seeds=wanted_seeds)
                except (KeyError, ValueError) as error:
                    if error.args and isinstance(error.args[0], str):
                        error.args = (f"method {name!r}, section {one.name!r}: {error.args[0]}", *error.args[1:])
                    raise
                rows += [{"method": name, "section": one.name, **row} for row in scores]
                bar.update()
    return pd.DataFrame(rows)


def _wanted_image(names: Collection[str]) -> Wanted:
    """Whether some method needs an image, or takes it if there is one."""
    if any(name in TILES for name in names):
        return True
    modalities = {READ_OUTS[name].modality for name in names if name in READ_OUTS}
    return True if modalities & {"he", "both"} else "auto" if "auto" in modalities else False


def _scores(
    represented: Represented, one: LabelledSection, centres: np.ndarray, *, numbers: list[int], seeds: list[int]
) -> list[dict[str, Any]]:
    """Scores of the domains in a representation, by number of domains and seed."""
    known = finite_rows(represented.values)
    rows = []
    for k in numbers:
        for seed in seeds:
            codes = represented.cluster(represented.values, known, k, seed)
            scores = score_domains(_labels(one.truth), _labels(codes), centres)
            rows.append(
                {"n_domains": k, "n_classes": one.n_classes, "seed": seed}
                | {score: scores[score] for score in SCORES}
                | {"n_scored": scores["n_scored"], "seconds": represented.seconds}
            )
    return rows


def _labels(codes: np.ndarray) -> pd.Series:
    """Labels that are missing where a code is -1."""
    names = pd.Index([str(k) for k in range(codes.max() + 1)])
    return pd.Series(pd.Categorical.from_codes(codes.astype(np.int64), categories=names))
