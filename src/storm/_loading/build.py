"""``storm.build_model``: a whole model by name, untrained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from storm._checks import check_choice, check_whole
from storm._loading.model import StormModel
from storm._loading.parts import empty_statistics
from storm.data.genes import Vocabulary
from storm.encoders import EncoderInfo, with_weights
from storm.encoders.registry import as_info
from storm.expression import ExpressionEncoder, FactorExpression, NovaeEncoder
from storm.expression.novae_models import random_novae
from storm.model.build import SIZES, build_storm
from storm.model.expression import FactorEncoder

#: The read-out and its weights that did best on held-out sections (the model card of storm-mini has the numbers).
_SETTINGS = {"standardise": "section", "readout": "adaptive", "modality_weights": {"he": 0.5, "st": 1.0}}


def build_model(
    name: str = "storm-base",
    *,
    genes: Sequence[str] | None = None,
    tile_encoder: str | EncoderInfo | None = None,
    expression: ExpressionEncoder | None = None,
    tile_px: int | str | None = None,
    seed: int = 0,
    **changes: Any,
) -> StormModel:
    """Build a model with an untrained network, for pretraining or for tests.

    ``"storm-base"`` is the paper's: H0-mini, Novae and a spatial encoder of six blocks of width 768. Encoders that are
    not given get random weights too, so that the whole model runs without published weights; for pretraining, give
    loaded encoders.

    Parameters
    ----------
    name
        ``"storm-base"``, ``"storm-mini"`` or ``"storm-tiny"``.
    genes
        Gene symbols that the ST decoder predicts, and that a random expression encoder reads; by default those of
        ``expression``.
    tile_encoder
        An encoder from :func:`storm.encoders.load_encoder` or :func:`storm.encoders.wrap_encoder`; or a name, whose
        architecture gets random weights. By default ``"h0-mini"`` for ``"storm-base"``, otherwise the packaged one.
    expression
        A loaded encoder, for example from :func:`storm.expression.load_novae`. By default a random Novae for
        ``"storm-base"``, otherwise random factors.
    tile_px
        Side of the tile encoder's input in pixels, or ``"native"``; see :func:`storm.tl.encode_tiles`.
    seed
        Random seed of all weights that are drawn; torch's own random numbers are left alone.
    **changes
        Fields of :class:`storm.model.StormConfig` to set differently.

    Returns
    -------
    StormModel
        On the CPU, in evaluation mode; its ``trained`` is false, which is recorded with every embedding made with it.

    Raises
    ------
    TypeError, ValueError
        If the name is unknown, genes are missing, a part does not fit, or a field has an impossible value.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *STORM model design*. The paper states neither width nor depth.

    Examples
    --------
    A model of random weights, to be trained with :func:`storm.tl.adapt` or ``storm pretrain``:

    >>> import storm
    >>> model = storm.build_model("storm-mini", genes=[f"GENE{i}" for i in range(100)])
    >>> model.trained
    False
    """
    check_choice(name, [f"storm-{size}" for size in SIZES], name="name")
    check_whole(seed, name="seed", least=0)
    base = name == "storm-base"
    vocabulary = _vocabulary(name, genes, expression)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tiles = _tile_encoder(("h0-mini" if base else "stain-texture") if tile_encoder is None else tile_encoder)
        encoder: ExpressionEncoder
        if expression is not None:
            encoder = expression
        else:
            st_dim = changes.pop("st_dim", SIZES[name.removeprefix("storm-")]["st_dim"])
            encoder = _novae(vocabulary, st_dim) if base else _factors(vocabulary, st_dim, seed)
        sizes = {"he_dim": tiles.dim, "st_dim": encoder.dim, "n_genes": len(vocabulary)}
        network = build_storm(name.removeprefix("storm-"), **(sizes | changes)).requires_grad_(False).eval()
    settings: dict[str, Any] = {**_SETTINGS, "trained": False}
    if tile_px is not None:
        settings["tile_px"] = (
            tiles.native_px(tiles.field_um) if tile_px == "native" else check_whole(tile_px, name="tile_px")
        )
    return StormModel(
        name=name,
        network=network,
        tile_encoder=tiles,
        expression=encoder,
        vocabulary=vocabulary,
        statistics=empty_statistics(network.config),
        settings=settings,
        card={"summary": f"{name} with a random network (seed {seed}), not trained"},
    )


def _vocabulary(name: str, genes: Sequence[str] | None, expression: ExpressionEncoder | None) -> Vocabulary:
    if genes is not None:
        return Vocabulary(tuple(str(gene) for gene in ([genes] if isinstance(genes, str) else genes)))
    own = getattr(expression, "vocabulary", None)
    if own is None:
        msg = f"{name!r} has no genes of its own; give genes=sdata.tables['table'].var_names, or expression="
        raise ValueError(msg)
    return own


def _tile_encoder(encoder: str | EncoderInfo) -> EncoderInfo:
    info = as_info(encoder)
    if info.architecture is None or info.sha256 is not None:
        return info
    return with_weights(info, info.architecture().requires_grad_(False).eval())


def _novae(vocabulary: Vocabulary, dim: int) -> NovaeEncoder:
    return NovaeEncoder(random_novae(vocabulary.symbols, output_size=dim), name="novae, random")


def _factors(vocabulary: Vocabulary, dim: int, seed: int) -> FactorExpression:
    if len(vocabulary) < dim:
        msg = f"{len(vocabulary)} genes have no {dim} orthogonal factors; give at least {dim} genes, or st_dim="
        raise ValueError(msg)
    encoder = FactorEncoder(len(vocabulary), dim)
    encoder.eval()
    drawn = np.random.default_rng(seed).normal(size=(len(vocabulary), dim))
    encoder.loadings.copy_(torch.from_numpy(np.linalg.qr(drawn)[0]))
    return FactorExpression(encoder, vocabulary, name="factors, random")
