"""The groups of fields that make up a pretraining run, each of which is a table in its TOML file.

The name of a field is unique over all groups, so that a flat file means the same as one with tables.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from storm._checks import check_between, check_choice, check_positive, check_whole
from storm._types import Standardise
from storm.model.build import SIZES
from storm.model.config import StormConfig

TileInit = Literal["published", "random"]
ExpressionKind = Literal["factors", "hvg", "model"]
LibraryChoice = Literal["auto", "own"]
Likelihood = Literal["gaussian", "nb"]
DecayOver = Literal["tiles", "all"]
Precision = Literal["auto", "fp32", "bf16"]

_INFINITE = float("inf")
#: AdamW moves a weight by about the learning rate at every step, whatever the loss: above 1 nothing is learned.
_LARGEST_LR = 1.0


def check_lr(lr: Any) -> None:
    """Raise unless ``lr`` is a learning rate above 0 and at most 1."""
    check_positive(lr, name="lr")
    if lr > _LARGEST_LR:
        msg = f"lr={lr!r} is above {_LARGEST_LR:g}, with which no training converges; use a value like 1e-3"
        raise ValueError(msg)


def _check_flags(group: Any, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(group, name), bool):
            msg = f"{name}={getattr(group, name)!r} must be true or false"
            raise ValueError(msg)


def _check_text(group: Any, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        if value is not None and not isinstance(value, str):
            msg = f"{name}={value!r} must be text"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Sections, how they are packed into windows, and what is held out.

    Parameters
    ----------
    sections
        SpatialData stores, and folders of such stores (``*.zarr``).
    shards
        Folder of the packed sections; several runs may share it.
    image_key, table_key, shapes_key, coordinate_system, um_per_px, layer
        As in :func:`storm.tl.embed`; they apply to every section.
    window
        Members of a window; 0 for 25 on lattices and 9 for cells. 1 (ablation) leaves no neighbour to rebuild from:
        expression is then rebuilt from the H&E of the same spot, and sections without both teach nothing.
    radius_um
        Reach of a window of cells in µm.
    section_batch
        Windows that are drawn together from one section; a batch holds ``batch_size / section_batch`` such draws.
    validation_share
        Share of each section that is held out: a strip across its longer side. Windows that touch it are left out.
    validation_sections
        Names of sections that are held out as a whole.
    """

    sections: tuple[str, ...] = ()
    shards: str = "shards"
    image_key: str | None = None
    table_key: str | None = None
    shapes_key: str | None = None
    coordinate_system: str | None = None
    um_per_px: float | None = None
    layer: str | None = None
    window: int = 0
    radius_um: float | None = None
    section_batch: int = 64
    validation_share: float = 0.05
    validation_sections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("sections", "validation_sections"):
            # A list of json or TOML, or one name.
            value = getattr(self, name)
            names = (value,) if isinstance(value, str) else tuple(value)
            if not all(isinstance(item, str) for item in names):
                msg = f"{name}={value!r} must be a list of names"
                raise ValueError(msg)
            object.__setattr__(self, name, names)
        _check_text(self, "shards", "image_key", "table_key", "shapes_key", "coordinate_system", "layer")
        check_whole(self.window, name="window", least=0)
        check_whole(self.section_batch, name="section_batch")
        check_between(self.validation_share, name="validation_share", low=0, high=0.5)
        for name in ("um_per_px", "radius_um"):
            if getattr(self, name) is not None:
                check_positive(getattr(self, name), name=name, unit="µm")


@dataclass(frozen=True, kw_only=True)
class HEConfig:
    """The tile encoder, and whether it is trained.

    Parameters
    ----------
    tile_encoder
        Name of the tile encoder, or ``""`` for expression only.
    tile_weights
        File or folder of its weights; by default the hub's cache.
    tile_init
        ``"random"`` draws its weights (ablation *random-init tile encoder*).
    field_um, tile_px
        Field (in µm) and input size of a tile; the encoder's own by default.
    train_tiles
        Train the tile encoder together with the network, from pixels that are packed beside the embeddings; otherwise
        it is frozen, and sections are embedded once. Targets are the frozen encoder's embeddings either way.
    tile_chunk
        With ``train_tiles``: number of tiles whose activations are held at a time, the others being computed again
        (activation checkpointing: less memory for a third more time); 0 for all.
    crop_area, crop_ratio, flips
        Augmentation of H&E with ``train_tiles``: smallest share of a tile that a crop keeps (1 for no crops; the paper
        does not state it), largest ratio of its sides, and mirroring along both axes.
    refresh_tiles
        With ``train_tiles`` and ``standardise="section"``: number of tiles of each section that are embedded at the end
        of every epoch, to measure its mean and spread under the encoder as it is then.
    """

    tile_encoder: str = "h0-mini"
    tile_weights: str | None = None
    tile_init: TileInit = "published"
    field_um: float | None = None
    tile_px: int | None = None
    train_tiles: bool = False
    tile_chunk: int = 0
    crop_area: float = 0.5
    crop_ratio: float = 4 / 3
    flips: bool = True
    refresh_tiles: int = 256

    def __post_init__(self) -> None:
        _check_text(self, "tile_encoder", "tile_weights")
        check_choice(self.tile_init, get_args(TileInit), name="tile_init")
        _check_flags(self, "train_tiles", "flips")
        check_whole(self.tile_chunk, name="tile_chunk", least=0)
        check_whole(self.refresh_tiles, name="refresh_tiles", least=2)
        check_between(self.crop_area, name="crop_area", low=0.01, high=1)
        check_between(self.crop_ratio, name="crop_ratio", low=1, high=10)
        if self.field_um is not None:
            check_positive(self.field_um, name="field_um", unit="µm")
        if self.tile_px is not None:
            check_whole(self.tile_px, name="tile_px")
        if self.tile_init == "random" and self.tile_weights is not None:
            msg = f"tile_init='random' does not read tile_weights={self.tile_weights!r}; leave one of them out"
            raise ValueError(msg)
        if self.train_tiles and not self.tile_encoder:
            msg = "train_tiles=true needs a tile encoder; name one, or leave it at false"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class STConfig:
    """The expression encoder, and the genes that are predicted.

    Parameters
    ----------
    expression
        ``"factors"``: fitted on the training sections; ``"hvg"``: the raw vector of variable genes (ablation);
        ``"model"``: the encoder of ``expression_model``. Frozen while the network is trained.
    expression_model
        Name or folder of a model whose expression encoder is used, Novae for example.
    expression_dim
        Number of factors.
    hvg_genes
        Number of variable genes with ``expression="hvg"``.
    min_genes
        Fewest genes that a section must share with the encoder.
    genes
        Number of genes that the decoder predicts: the most variable ones of the union of all panels, 0 for all of it.
    fit_spots
        Number of spots, over all sections, on which genes are chosen and the expression encoder is fitted.
    library
        Genes whose counts add up to the library size by which expression is normalised, for the factors and for the
        targets. ``"auto"``: all genes of each section where the sections measure nearly the same ones (at least 95 % of
        the counts of each are in the genes common to all), else the common genes, of which there must be 20.
        ``"own"``: all genes of each section in any case, for corpora of panels with too little in common; counts per
        10,000 of a small panel are then larger than those of a whole transcriptome.
    """

    expression: ExpressionKind = "factors"
    expression_model: str | None = None
    expression_dim: int = 64
    hvg_genes: int = 2000
    min_genes: int = 20
    genes: int = 0
    fit_spots: int = 10_000
    library: LibraryChoice = "auto"

    def __post_init__(self) -> None:
        check_choice(self.expression, get_args(ExpressionKind), name="expression")
        _check_text(self, "expression_model")
        for name in ("expression_dim", "hvg_genes", "min_genes"):
            check_whole(getattr(self, name), name=name)
        check_whole(self.genes, name="genes", least=0)
        check_whole(self.fit_spots, name="fit_spots", least=2)
        check_choice(self.library, get_args(LibraryChoice), name="library")
        if (self.expression == "model") != (self.expression_model is not None):
            msg = (
                f"expression={self.expression!r} and expression_model={self.expression_model!r} do not fit: "
                "expression='model' uses the encoder of the model that expression_model names"
            )
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network.

    Parameters
    ----------
    size
        Named size, see :func:`storm.build_model`.
    width, depth, heads, mlp_ratio, dropout, slope_scale, decoder_width, decoder_depth, decoder_heads
        Whatever is to differ from it; see :class:`storm.model.StormConfig`.
    st_likelihood
        Density of eq. 3 for expression, ``"gaussian"`` or ``"nb"``.
    spatial_encoder
        ``False`` (ablation *tile encoder without STORM*) writes a model whose output for a spot is its own tile
        embedding, standardised; nothing is trained.
    """

    size: str = "base"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    mlp_ratio: float | None = None
    dropout: float | None = None
    slope_scale: float | None = None
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    st_likelihood: Likelihood = "gaussian"
    spatial_encoder: bool = True

    def __post_init__(self) -> None:
        check_choice(self.size, tuple(SIZES), name="size")
        check_choice(self.st_likelihood, get_args(Likelihood), name="st_likelihood")
        _check_flags(self, "spatial_encoder")
        # The shape of the network is checked now, not after the sections were packed.
        self.storm_config()

    def overrides(self) -> dict[str, Any]:
        """Fields of :class:`storm.model.StormConfig` that differ from those of the named size."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given.pop("size")
        given.pop("spatial_encoder")
        return {name: value for name, value in given.items() if value is not None}

    def storm_config(self) -> StormConfig:
        """Configuration of the network, without the sizes that the encoders and the genes determine."""
        return StormConfig(**(SIZES[self.size] | self.overrides()))


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is hidden, and relative to what it is rebuilt.

    Parameters
    ----------
    n_visible
        Number of visible spots per modality in each window.
    he_only
        Share of the batches that show all H&E and no expression.
    genes_per_step
        Number of genes drawn for the loss of each step; 0 for all.
    standardise
        ``"section"``: tokens and targets relative to their section; ``"training"``: to all training sections.
    """

    n_visible: int = 5
    he_only: float = 0.0
    genes_per_step: int = 0
    standardise: Standardise = "section"

    def __post_init__(self) -> None:
        check_whole(self.n_visible, name="n_visible")
        check_between(self.he_only, name="he_only", low=0, high=1)
        check_whole(self.genes_per_step, name="genes_per_step", least=0)
        check_choice(self.standardise, get_args(Standardise), name="standardise")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a cosine after a linear warm-up; the defaults are the paper's (1.2 M spots on eight GPUs).

    Parameters
    ----------
    epochs, warmup_epochs
        Passes over all training windows, and how many of them the learning rate rises for; the warm-up is rounded to
        the nearest whole step. ``epochs=0`` (ablation *no pretraining*) writes the untrained model.
    batch_size
        Windows of one step, over all processes.
    lr, min_lr
        Learning rate at the end of the warm-up, at most 1, and at the end of the cosine.
    weight_decay, beta1, beta2
        AdamW's weight decay and decay rates of its two moments.
    clip
        Largest norm of the gradient; a longer one is scaled down to it.
    layer_decay, layer_decay_over
        Factor on the learning rate from layer to layer downwards, over the tile encoder (``"tiles"``, which changes
        nothing where it is frozen) or the whole stack (``"all"``).
    """

    epochs: int = 1000
    warmup_epochs: float = 40
    batch_size: int = 1024
    lr: float = 1e-4
    min_lr: float = 0.0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    layer_decay: float = 0.7
    layer_decay_over: DecayOver = "tiles"

    def __post_init__(self) -> None:
        check_whole(self.epochs, name="epochs", least=0)
        check_whole(self.batch_size, name="batch_size")
        check_lr(self.lr)
        check_positive(self.clip, name="clip")
        check_between(self.min_lr, name="min_lr", low=0, high=self.lr)
        for name in ("warmup_epochs", "weight_decay"):
            check_between(getattr(self, name), name=name, low=0, high=_INFINITE)
        for name in ("layer_decay", "beta1", "beta2"):
            check_between(getattr(self, name), name=name, low=0, high=1)
        check_choice(self.layer_decay_over, get_args(DecayOver), name="layer_decay_over")
        if self.epochs and self.warmup_epochs >= self.epochs:
            msg = f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run is kept, and the machines that it runs on.

    Parameters
    ----------
    out
        Folder of the run: log, checkpoints, and the model at the end.
    seed
        Random seed of everything that is drawn: weights, order of the windows, masks, dropout, crops and flips.
    validate_epochs
        Epochs from one validation to the next.
    accelerator, devices, nodes
        See lightning's ``Fabric``.
    precision
        ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 on a GPU and fp32 elsewhere.
    checkpoint_steps, keep_checkpoints
        Steps from one checkpoint to the next, and how many of them stay.
    """

    out: str = "pretrained"
    seed: int = 0
    validate_epochs: int = 1
    accelerator: str = "auto"
    devices: int | str = "auto"
    nodes: int = 1
    precision: Precision = "auto"
    checkpoint_steps: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        _check_text(self, "out", "accelerator")
        check_whole(self.seed, name="seed", least=0)
        for name in ("validate_epochs", "nodes", "checkpoint_steps", "keep_checkpoints"):
            check_whole(getattr(self, name), name=name)
        if self.devices != "auto":
            check_whole(self.devices, name="devices")
        check_choice(self.precision, get_args(Precision), name="precision")
