"""The model that an adaptation starts from, with a new expression encoder where the sections have other genes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from storm._loading import StormModel, build_model
from storm._logging import logger
from storm.data.genes import Vocabulary, match_genes
from storm.data.libraries import Library
from storm.data.normalise import log_normalise
from storm.data.spots import Spots
from storm.expression import FactorExpression
from storm.model.expression import FactorEncoder
from storm.pretraining.factors import Panel, choose_genes, fit_factors, spread_within

#: Size of an expression encoder that is fitted here.
_FACTORS = 64
#: Fewest genes that such an encoder must share with a table.
_MIN_GENES = 20


def starting_model(
    start: StormModel | None,
    with_counts: list[Spots],
    *,
    expression: str,
    n_genes: int,
    library: Library,
    seed: int,
) -> tuple[StormModel, bool]:
    """Prepare the model to start from, and fit its expression encoder where that is needed.

    Parameters
    ----------
    start
        The user's model, or ``None``.
    with_counts
        Sections with expression.
    expression, n_genes, seed
        See :func:`storm.tl.adapt`.
    library
        Genes whose counts add up to the library size by which a new encoder normalises.

    Returns
    -------
    model : StormModel
        The model.
    refitted : bool
        Whether its expression encoder was fitted on these sections.

    Raises
    ------
    ValueError
        If a section shares too few genes with a model that is to keep its own, or none with the other sections, or has
        too few spots or genes to fit an encoder on.
    """
    if not with_counts:
        if start is None:
            # Without expression there is nothing to name genes by; the network then has no decoder for it.
            start = build_model("storm-mini", expression=_no_expression(), n_genes=0, seed=seed)
        return start, False
    if start is not None and expression != "refit":
        least = getattr(start.expression, "min_genes", _MIN_GENES)
        shared = [_shared(start, spots) for spots in with_counts]
        if expression == "keep" and min(shared) < least:
            msg = (
                f"a section shares {min(shared)} genes with model {start.name!r}, and at least {least} are needed to "
                "keep its expression encoder; use expression='refit', which fits one on your genes, or check that "
                "var_names are gene symbols or Ensembl ids"
            )
            raise ValueError(msg)
        if expression == "keep" or (start.trained and min(shared) >= least):
            return start, False
    known = None if start is None else start.vocabulary
    encoder = _fit_expression(with_counts, n_genes, library, seed, known=known)
    made = build_model("storm-mini", expression=encoder, seed=seed)
    if start is not None:
        made = _moved(start, made, seed)
        if expression == "auto" and start.trained:
            logger.warning(
                "a section has too few genes of model %r: its expression encoder is fitted anew, on %d genes",
                start.name,
                len(encoder.vocabulary),
            )
    sections = [spots.expression for spots in with_counts]
    raw = [encoder.encode(counts, genes.tolist()) for counts, genes in sections]
    return with_statistics(made, "st", raw), True


def _shared(model: StormModel, spots: Spots) -> int:
    """Number of genes of a section that the model both reads and writes."""
    _, genes = spots.expression
    read = model.expression.match(genes.tolist()).n_shared
    return read if model.config.n_genes == 0 else min(read, match_genes(genes, model.vocabulary).n_shared)


def _no_expression() -> FactorExpression:
    return FactorExpression(FactorEncoder(1, _FACTORS).eval(), Vocabulary(("none",)), name="none")


def _fit_expression(
    spots: list[Spots], n_genes: int, library: Library, seed: int, *, known: Vocabulary | None
) -> FactorExpression:
    panels = []
    for part in spots:
        counts, genes = part.expression
        panels.append(Panel(log_normalise(counts, library=library.columns(genes)), genes))
    names = [{str(gene).upper() for gene in panel.genes} for panel in panels]
    for i, own in enumerate(names):
        others = set().union(*(other for j, other in enumerate(names) if j != i))
        if len(names) > 1 and not own & others:
            some = ", ".join(map(repr, list(panels[i].genes[:3])))
            msg = (
                f"section {i} has no gene in common with the others (it has {some}, …); name the genes of all sections "
                "the same way, symbols or Ensembl ids, or adapt to it alone"
            )
            raise ValueError(msg)
    symbols = choose_genes([(panels, n_genes)])
    over = [panel.over(symbols) for panel in panels]
    used = [(values[values.sum(axis=1) > 0], measured) for values, measured in over]
    if min(len(values) for values, _ in used) < 2:
        msg = "a section has fewer than two spots with counts; leave it out, or check its table and layer"
        raise ValueError(msg)
    dim = min(_FACTORS, len(symbols) - 1, sum(len(values) for values, _ in used) - 1)
    if dim < 1:
        msg = f"{len(symbols)} genes are too few to fit an expression encoder; use modality='he', or another table"
        raise ValueError(msg)
    # Tables by Ensembl id were translated by the model's vocabulary, and so will be those that come later.
    ids = {} if known is None else {s.upper(): i for s, i in zip(known.symbols, known.ensembl, strict=False)}
    vocabulary = Vocabulary(tuple(symbols), tuple(ids.get(symbol, "") for symbol in symbols))
    least = min(_MIN_GENES, len(symbols), *(int(measured.sum()) for _, measured in used))
    factors = fit_factors(used, dim, seed=seed)
    return FactorExpression(factors, vocabulary, min_genes=least, name="factors, fitted", library=library)


def _moved(start: StormModel, made: StormModel, seed: int) -> StormModel:
    """The model with another expression encoder: the layers that read and write expression are new, all else stays."""
    config = replace(start.config, st_dim=made.config.st_dim, n_genes=made.config.n_genes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = type(start.network)(config)
    own = network.state_dict()
    kept = {
        name: value
        for name, value in start.network.state_dict().items()
        if not name.startswith(("project.st", "decoders.st.out", "log_dispersion")) and name in own
    }
    network.load_state_dict(own | kept)
    statistics = nn.ParameterDict(dict(start.statistics.items()) | dict(made.statistics.items()))
    for part in ("he_mean", "he_std"):
        statistics[part] = start.statistics[part]
    return replace(
        start,
        network=network.requires_grad_(False).eval(),
        expression=made.expression,
        vocabulary=made.vocabulary,
        statistics=statistics,
        head=None,
    )


def with_statistics(model: StormModel, name: str, values: list[np.ndarray]) -> StormModel:
    """The model with the mean and spread of these sections' embeddings of one modality as its training statistics."""
    if not values:
        return model
    statistics = nn.ParameterDict(dict(model.statistics.items()))
    for what, number in zip(("mean", "std"), spread_within(values), strict=True):
        new = torch.from_numpy(np.asarray(number, dtype=np.float32))
        statistics[f"{name}_{what}"] = nn.Parameter(new, requires_grad=False)
    return replace(model, statistics=statistics)
