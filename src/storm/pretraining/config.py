"""Everything that a pretraining run can be told, in one file: :class:`PretrainConfig`."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from storm._checks import check_choice, check_positive
from storm.model.build import SIZES
from storm.model.config import StormConfig

_CHOICES = {
    "tile_init": ("published", "random"),
    "expression": ("factors", "hvg", "model"),
    "standardise": ("section", "training"),
    "size": tuple(SIZES),
    "st_likelihood": ("gaussian", "nb"),
    "layer_decay_over": ("tiles", "all"),
    "precision": ("auto", "fp32", "bf16"),
}
_AT_LEAST = {
    "expression_dim": 1, "hvg_genes": 1, "min_genes": 1, "n_visible": 1, "batch_size": 1, "section_batch": 1,
    "nodes": 1, "checkpoint_steps": 1, "keep_checkpoints": 1, "validate_epochs": 1, "fit_spots": 2,
    "refresh_tiles": 2, "epochs": 0, "seed": 0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining run. The defaults are the paper's numbers where it states them.

    Parameters
    ----------
    sections
        SpatialData stores, and folders of such stores (``*.zarr``).
    shards
        Folder of the packed sections; several runs may share it.
    out
        Folder of the run: log, checkpoints, and the model at the end.
    image_key, table_key, shapes_key, coordinate_system, um_per_px, layer
        As in :func:`storm.tl.embed`, for every section.
    tile_encoder
        Name of the tile encoder, or ``""`` for expression only.
    tile_weights
        File or folder of its weights; by default the hub's cache.
    tile_init
        ``"random"`` draws its weights (ablation *random-init tile encoder*).
    field_um, tile_px
        Field and input size of a tile; the encoder's own by default.
    train_tiles
        Train the tile encoder together with the network, from pixels that are packed beside the embeddings; otherwise
        it is frozen, and sections are embedded once. Targets are the frozen encoder's embeddings either way.
    crop_area, crop_ratio, flips
        Augmentation of H&E with ``train_tiles``: smallest share of a tile that a crop keeps (1 for no crops; the paper
        does not state it), largest ratio of its sides, and mirroring along both axes.
    refresh_tiles
        With ``train_tiles`` and ``standardise="section"``: tiles of each section that are embedded at the end of every
        epoch, to know its mean and spread under the encoder as it is then.
    tile_chunk
        With ``train_tiles``: tiles whose activations are held at a time, the others being computed again (activation
        checkpointing: less memory for a third more time); 0 for all.
    expression
        ``"factors"``: fitted on the training sections; ``"hvg"``: the raw vector of variable genes (ablation);
        ``"model"``: that of ``expression_model``. Frozen while the network is trained.
    expression_model
        Name or folder of a model, whose expression encoder is taken, Novae for example.
    expression_dim, hvg_genes, min_genes
        Number of factors; of variable genes; fewest genes that a section must share with the encoder.
    genes
        Genes that the decoder predicts: the most variable ones of the union of all panels, 0 for all of it.
    fit_spots
        Spots, over all sections, on which genes are chosen and the expression encoder is fitted.
    standardise
        ``"section"``: tokens and targets relative to their section; ``"training"``: to all training sections.
    size, width, depth, heads, mlp_ratio, dropout, slope_scale, decoder_width, decoder_depth, decoder_heads
        Shape of the network: a named size, and what differs from it; see :class:`storm.model.StormConfig`.
    spatial_encoder
        ``False`` (ablation *tile encoder without STORM*) writes a model whose output for a spot is its own tile
        embedding, standardised; nothing is trained.
    st_likelihood
        Density of eq. 3 for expression, ``"gaussian"`` or ``"nb"``.
    window
        Members of a window; 0 for 25 on lattices and 9 for cells. 1 (ablation) leaves no neighbour to rebuild from:
        expression is then rebuilt from the H&E of the same spot, and sections without both teach nothing.
    radius_um
        Reach of a window of cells in µm.
    n_visible
        Visible spots per modality.
    he_only
        Share of batches that see all H&E and no expression.
    genes_per_step
        Genes drawn for each step's loss; 0 for all.
    epochs, warmup_epochs, batch_size, lr, min_lr, weight_decay, beta1, beta2, clip
        AdamW with a cosine after a linear warm-up; ``epochs=0`` (ablation *no pretraining*) writes the untrained model.
        ``batch_size`` counts windows of one step over all processes.
    section_batch
        Windows that are drawn together from one section; a batch holds ``batch_size / section_batch`` such draws.
    layer_decay, layer_decay_over
        Factor on the learning rate from layer to layer downwards, over the tile encoder (``"tiles"``, which changes
        nothing where it is frozen) or the whole stack (``"all"``).
    seed
        Of everything that is drawn.
    validation_share
        Share of each section that is held out: a strip across its longer side. Windows that touch it are left out.
    validation_sections
        Names of sections that are held out as a whole.
    validate_epochs
        Epochs from one validation to the next.
    accelerator, devices, nodes, precision
        As lightning's Fabric takes them; ``"auto"`` precision is bf16 on a GPU and fp32 elsewhere.
    checkpoint_steps, keep_checkpoints
        Steps from one checkpoint to the next, and how many of them stay.

    Raises
    ------
    ValueError
        If a value is out of its range; the text names it.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *Pretraining settings*.
    """

    sections: tuple[str, ...] = ()
    shards: str = "shards"
    out: str = "pretrained"
    image_key: str | None = None
    table_key: str | None = None
    shapes_key: str | None = None
    coordinate_system: str | None = None
    um_per_px: float | None = None
    layer: str | None = None

    tile_encoder: str = "h0-mini"
    tile_weights: str | None = None
    tile_init: str = "published"
    field_um: float | None = None
    tile_px: int | None = None
    train_tiles: bool = False
    crop_area: float = 0.5
    crop_ratio: float = 4 / 3
    flips: bool = True
    refresh_tiles: int = 256
    tile_chunk: int = 0
    expression: str = "factors"
    expression_model: str | None = None
    expression_dim: int = 64
    hvg_genes: int = 2000
    min_genes: int = 20
    genes: int = 0
    fit_spots: int = 10_000
    standardise: str = "section"

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
    st_likelihood: str = "gaussian"
    spatial_encoder: bool = True

    window: int = 0
    radius_um: float | None = None
    n_visible: int = 5
    he_only: float = 0.0
    genes_per_step: int = 0

    epochs: int = 1000
    warmup_epochs: float = 40
    batch_size: int = 1024
    section_batch: int = 64
    lr: float = 1e-4
    min_lr: float = 0.0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    layer_decay: float = 0.7
    layer_decay_over: str = "tiles"
    seed: int = 0

    validation_share: float = 0.05
    validation_sections: tuple[str, ...] = ()
    validate_epochs: int = 1
    accelerator: str = "auto"
    devices: int | str = "auto"
    nodes: int = 1
    precision: str = "auto"
    checkpoint_steps: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(getattr(self, name), choices, name=name)
        for name, least in _AT_LEAST.items():
            self._check_whole(name, least)
        for name in ("genes", "window", "genes_per_step", "tile_chunk"):
            self._check_whole(name, 0)
        for name in ("lr", "clip", "batch_size"):
            check_positive(getattr(self, name), name=name)
        if self.tile_px is not None:
            self._check_whole("tile_px", 1)
        for name in ("field_um", "um_per_px", "radius_um"):
            if getattr(self, name) is not None:
                check_positive(getattr(self, name), name=name)
        for name in ("he_only", "layer_decay", "beta1", "beta2"):
            self._check_range(name, 0, 1)
        self._check_range("validation_share", 0, 0.5)
        self._check_range("crop_area", 0.01, 1)
        self._check_range("crop_ratio", 1, 10)
        for name in ("train_tiles", "flips", "spatial_encoder"):
            if not isinstance(getattr(self, name), bool):
                msg = f"{name}={getattr(self, name)!r} must be true or false"
                raise ValueError(msg)
        for name in ("warmup_epochs", "min_lr", "weight_decay"):
            self._check_range(name, 0, float("inf"))
        if self.devices != "auto":
            self._check_whole("devices", 1)
        if self.section_batch > self.batch_size or self.batch_size % self.section_batch:
            msg = f"batch_size={self.batch_size} is not a multiple of section_batch={self.section_batch}"
            raise ValueError(msg)
        if self.epochs and self.warmup_epochs >= self.epochs:
            msg = f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}"
            raise ValueError(msg)
        if (self.expression == "model") != (self.expression_model is not None):
            msg = (
                f"expression={self.expression!r} and expression_model={self.expression_model!r} do not fit: "
                "expression='model' takes the encoder of the model that expression_model names"
            )
            raise ValueError(msg)
        if self.tile_init == "random" and self.tile_weights is not None:
            msg = f"tile_init='random' does not read tile_weights={self.tile_weights!r}; leave one of them out"
            raise ValueError(msg)
        if self.window == 1 and not self.tile_encoder:
            msg = "window=1 rebuilds expression from H&E, and tile_encoder='' leaves no H&E"
            raise ValueError(msg)
        for name, value, plain in (("train_tiles", True, False), ("spatial_encoder", False, True)):
            if getattr(self, name) is value and not self.tile_encoder:
                msg = f"{name}={str(value).lower()} needs a tile encoder; name one, or leave it at {str(plain).lower()}"
                raise ValueError(msg)
        if self.train_tiles and not self.spatial_encoder:
            msg = "spatial_encoder=false trains nothing, and train_tiles=true asks to; leave one of them out"
            raise ValueError(msg)
        # The shape of the network is checked now, not after the sections were packed.
        network = StormConfig(**(SIZES[self.size] | self.network()))
        if self.epochs and not network.decoder_depth:
            msg = "decoder_depth=0 builds no decoder, and pretraining needs one"
            raise ValueError(msg)

    def _check_whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f"{name}={value!r} must be a whole number of at least {least}"
            raise ValueError(msg)

    def _check_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            msg = f"{name}={value!r} must be a number between {low:g} and {high:g}"
            raise ValueError(msg)

    def network(self) -> dict[str, Any]:
        """Fields of the network's shape that differ from the named size."""
        names = (
            "width", "depth", "heads", "mlp_ratio", "dropout", "slope_scale", "decoder_width", "decoder_depth",
            "decoder_heads",
        )  # fmt: skip
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return given | {"st_likelihood": self.st_likelihood}

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for json."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PretrainConfig:
        """Configuration from a dictionary; tables (as TOML has them) only group the fields.

        Raises
        ------
        ValueError
            If there is an unknown field, one that is given twice, or a value that does not fit.
        """
        flat: dict[str, Any] = {}
        for name, value in values.items():
            for key, item in value.items() if isinstance(value, dict) else [(name, value)]:
                if key in flat:
                    msg = f"the configuration gives {key!r} twice"
                    raise ValueError(msg)
                flat[key] = item
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(flat) - set(known))
        if unknown:
            msg = f"the configuration has unknown fields {unknown}; there are {known}"
            raise ValueError(msg)
        for name in ("sections", "validation_sections"):
            if name in flat:
                value = flat[name]
                flat[name] = (value,) if isinstance(value, str) else tuple(value)
        return cls(**flat)

    @classmethod
    def read(cls, path: str | Path) -> PretrainConfig:
        """Read a TOML file; relative paths in it are relative to its folder.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no TOML, or as :meth:`from_dict`.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            msg = f"there is no configuration {str(path)!r}"
            raise FileNotFoundError(msg)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"{str(path)!r} is no TOML file ({error})"
            raise ValueError(msg) from error
        config = cls.from_dict(values)
        base = path.resolve().parent
        placed = {name: str(base / Path(getattr(config, name)).expanduser()) for name in ("shards", "out")}
        placed["sections"] = tuple(str(base / Path(item).expanduser()) for item in config.sections)
        if config.tile_weights is not None:
            placed["tile_weights"] = str(base / Path(config.tile_weights).expanduser())
        if config.expression_model is not None and (base / config.expression_model).is_dir():
            placed["expression_model"] = str(base / config.expression_model)
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)} | placed)
