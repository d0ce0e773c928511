"""The start of a run: its encoders, and an untrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from storm._loading import StormModel, load_model
from storm._logging import logger
from storm.data.genes import Vocabulary
from storm.data.libraries import Library
from storm.encoders import EncoderInfo, get_encoder, load_encoder, with_weights
from storm.expression import ExpressionEncoder, FactorExpression, VariableGenes
from storm.model.build import build_storm
from storm.model.expression import FactorEncoder
from storm.model.storm import Storm
from storm.pretraining.config import PretrainConfig
from storm.pretraining.factors import Panel, choose_genes, fit_factors
from storm.pretraining.tiles import trainable


def tile_encoder_of(config: PretrainConfig) -> EncoderInfo | None:
    """Load the run's tile encoder with its weights; ``None`` for expression only.

    Raises
    ------
    FileNotFoundError
        If its weights are not available on this machine.
    ValueError
        If it is unknown, has no weights that could be drawn at random, or is to be trained and cannot be.
    """
    if not config.he.tile_encoder:
        return None
    if config.he.tile_init == "random":
        info = get_encoder(config.he.tile_encoder)
        if info.architecture is None:
            msg = f"tile_init='random' needs an encoder with weights, and {info.name!r} has none"
            raise ValueError(msg)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            module = info.architecture()
        info = with_weights(info, module.requires_grad_(False).eval())
    else:
        info = load_encoder(config.he.tile_encoder, weights=config.he.tile_weights)
    if config.he.train_tiles:
        trainable(info, info.build())
    return info


def expression_encoder(
    config: PretrainConfig, panels: Sequence[Panel], symbols: Sequence[str], library: Library
) -> ExpressionEncoder:
    """Make the run's expression encoder, and fit it where it has to be.

    Parameters
    ----------
    config
        The run.
    panels
        Expression of some training spots; none for a corpus without expression.
    symbols
        Genes that the decoder predicts.
    library
        Genes whose counts add up to the library size; encoders other than the factors use all genes of each table.

    Returns
    -------
    ExpressionEncoder
        For a corpus without expression one without genes, which refuses every table: a model that has seen no
        expression must not pass off noise as an embedding.

    Raises
    ------
    ValueError
        If there are too few spots and genes for the factors, or an encoder is asked for and no section has counts.
    """
    if not panels:
        if config.st.expression != "factors":
            msg = (
                f"expression={config.st.expression!r}, but no section to train on has counts; add some that have, or "
                "leave expression out to train on H&E alone"
            )
            raise ValueError(msg)
        logger.warning("no section to train on has counts: the model learns from H&E alone, and reads no expression")
        encoder = FactorEncoder(0, config.st.expression_dim).eval()
        return FactorExpression(
            encoder, Vocabulary(()), min_genes=config.st.min_genes, name="none: trained on H&E alone"
        )
    if config.st.expression == "model":
        assert config.st.expression_model is not None  # checked with the configuration
        return load_model(config.st.expression_model).expression
    if config.st.expression == "hvg":
        return VariableGenes(choose_genes([(panels, config.st.hvg_genes)]), min_genes=config.st.min_genes)
    most = min(sum(panel.expression.shape[0] for panel in panels), len(symbols)) - 1
    if config.st.expression_dim > most:
        msg = f"expression_dim={config.st.expression_dim} is more than {most}, what these spots and genes allow"
        raise ValueError(msg)
    factors = fit_factors([panel.over(symbols) for panel in panels], config.st.expression_dim, seed=config.run.seed)
    return FactorExpression(factors, Vocabulary(tuple(symbols)), min_genes=config.st.min_genes, library=library)


def untrained(
    config: PretrainConfig,
    tiles: EncoderInfo,
    expression: ExpressionEncoder,
    *,
    vocabulary: Vocabulary,
    statistics: Mapping[str, np.ndarray],
    seen: Mapping[str, bool],
) -> StormModel:
    """Make the model before its first step.

    Parameters
    ----------
    config
        The run.
    tiles, expression
        Its encoders.
    vocabulary
        Genes that the decoder predicts.
    statistics
        ``he_mean``, ``he_std``, ``st_mean``, ``st_std`` over the training spots.
    seen
        Which modalities the training sections have; one that they lack weighs nothing in the model's embeddings.

    Returns
    -------
    StormModel
    """
    sizes = {"he_dim": tiles.dim, "st_dim": expression.dim, "n_genes": len(vocabulary)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        if config.network.spatial_encoder:
            network = build_storm(config.network.size, **(sizes | config.network.overrides()))
        else:
            network = _plain(**sizes)
    weights = {"he": 0.5, "st": 1.0}
    settings: dict[str, Any] = {
        "standardise": config.objective.standardise,
        "readout": "window",
        "trained": False,
        "modality_weights": {name: weight if seen[name] else 0.0 for name, weight in weights.items()},
    }
    if not config.network.spatial_encoder:
        # Its embedding is that of its tile encoder.
        trained = config.he.tile_init != "random"
        settings |= {"readout": "center", "modality_weights": {"he": 1.0, "st": 0.0}, "trained": trained}
    if config.he.tile_px is not None:
        settings["tile_px"] = config.he.tile_px
    return StormModel(
        name=Path(config.run.out).name,
        network=network.requires_grad_(False).eval(),
        tile_encoder=tiles,
        expression=expression,
        vocabulary=vocabulary,
        statistics=nn.ParameterDict(
            {key: nn.Parameter(torch.from_numpy(value), requires_grad=False) for key, value in statistics.items()}
        ),
        settings=settings,
        card={"summary": f"untrained start of {Path(config.run.out).name!r}"},
    )


def _plain(*, he_dim: int, st_dim: int, n_genes: int) -> Storm:
    """Make a network without context: a spot's H&E token is its tile embedding, brought to one length by the norm."""
    network = build_storm(
        "tiny",
        he_dim=he_dim,
        st_dim=st_dim,
        n_genes=n_genes,
        width=he_dim,
        depth=1,
        heads=1,
        mlp_ratio=1.5 / he_dim,
        decoder_depth=0,
    )
    with torch.no_grad():
        project = cast("nn.Linear", network.project["he"])
        project.weight.copy_(torch.eye(he_dim))
        project.bias.zero_()
        network.modality["he"].zero_()
        # A network has at least one block; this one adds nothing.
        for name, parameter in network.blocks[0].named_parameters():
            if name.startswith(("attention.proj.", "experts.")):
                parameter.zero_()
    return network
