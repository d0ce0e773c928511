"""The configuration of a pretraining run, in one file: :class:`PretrainConfig`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from storm.pretraining.config_groups import (
    DataConfig,
    HEConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    RunConfig,
    STConfig,
)

_GROUPS: dict[str, type] = {
    "data": DataConfig,
    "he": HEConfig,
    "st": STConfig,
    "network": NetworkConfig,
    "objective": ObjectiveConfig,
    "optimiser": OptimiserConfig,
    "run": RunConfig,
}
#: Group of each field.
_GROUP_OF = {item.name: name for name, group in _GROUPS.items() for item in fields(group)}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining run. The defaults are the paper's numbers where it states them.

    Parameters
    ----------
    data
        Sections, how they are packed into windows, and what is held out.
    he
        The tile encoder, and whether it is trained.
    st
        The expression encoder, and the genes that are predicted.
    network
        Shape of the network.
    objective
        What is hidden, and relative to what it is rebuilt.
    optimiser
        AdamW, its schedule, and the size of a batch.
    run
        Where the run is kept, and the machines that it runs on.

    Raises
    ------
    ValueError
        If a value is out of its range, or two of them contradict each other; the text names them.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *Pretraining settings*.
    """

    data: DataConfig = field(default_factory=DataConfig)
    he: HEConfig = field(default_factory=HEConfig)
    st: STConfig = field(default_factory=STConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        size, part = self.optimiser.batch_size, self.data.section_batch
        if part > size or size % part:
            msg = f"batch_size={size} is not a multiple of section_batch={part}"
            raise ValueError(msg)
        if self.data.window == 1 and not self.he.tile_encoder:
            msg = "window=1 rebuilds expression from H&E, and tile_encoder='' leaves no H&E"
            raise ValueError(msg)
        if not self.network.spatial_encoder and not self.he.tile_encoder:
            msg = "spatial_encoder=false needs a tile encoder; name one, or leave it at true"
            raise ValueError(msg)
        if not self.network.spatial_encoder and self.he.train_tiles:
            msg = "spatial_encoder=false trains nothing, and train_tiles=true asks to; leave one of them out"
            raise ValueError(msg)
        if self.optimiser.epochs and not self.network.storm_config().decoder_depth:
            msg = "decoder_depth=0 builds no decoder, and pretraining needs one"
            raise ValueError(msg)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain dictionary for json: a dictionary of fields for each group."""
        return {
            group: {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
            for group, values in asdict(self).items()
        }

    def flat(self) -> dict[str, Any]:
        """All fields by their own names, without groups; the values are those of :meth:`to_dict`."""
        return flatten(self.to_dict())

    def changed(self, **changes: Any) -> PretrainConfig:
        """The same run with other values of some fields, which are given by their own names.

        Raises
        ------
        ValueError
            As :meth:`from_dict`.
        """
        return type(self).from_dict(self.flat() | changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainConfig:
        """Configuration from a dictionary, with the fields in tables (as TOML has them), without, or both.

        A field is found by its own name, whatever the table: files of version 0.1.0, which had no tables of fixed
        names, are read as they are.

        Raises
        ------
        ValueError
            If a field is unknown or given twice, or a value does not fit.
        """
        flat = flatten(values)
        unknown = sorted(set(flat) - set(_GROUP_OF))
        if unknown:
            msg = f"the configuration has unknown fields {unknown}; there are {list(_GROUP_OF)}"
            raise ValueError(msg)
        groups: dict[str, Any] = {
            group: kind(**{name: value for name, value in flat.items() if _GROUP_OF[name] == group})
            for group, kind in _GROUPS.items()
        }
        return cls(**groups)

    @classmethod
    def read(cls, path: str | Path) -> PretrainConfig:
        """Read a TOML file; relative paths in it are relative to its folder.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        ValueError
            If it is not valid TOML, or as :meth:`from_dict`.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            msg = f"there is no configuration {str(path)!r}"
            raise FileNotFoundError(msg)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"{str(path)!r} is not a valid TOML file ({error})"
            raise ValueError(msg) from error
        config = cls.from_dict(values)
        base = path.resolve().parent

        def absolute(name: str) -> str:
            return str(base / Path(name).expanduser())

        placed: dict[str, Any] = {
            "shards": absolute(config.data.shards),
            "out": absolute(config.run.out),
            "sections": [absolute(name) for name in config.data.sections],
        }
        if config.he.tile_weights is not None:
            placed["tile_weights"] = absolute(config.he.tile_weights)
        # The name of a packaged model is not a path.
        if config.st.expression_model is not None and (base / config.st.expression_model).is_dir():
            placed["expression_model"] = str(base / config.st.expression_model)
        return config.changed(**placed)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by their own names, out of whatever tables they are in.

    Raises
    ------
    ValueError
        If a field is given twice, or a table lies within a table.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        for key, item in value.items() if isinstance(value, Mapping) else [(name, value)]:
            if isinstance(item, Mapping):
                msg = f"the configuration has a table {key!r} within the table {name!r}; a field is expected there"
                raise ValueError(msg)
            if key in flat:
                msg = f"the configuration gives {key!r} twice"
                raise ValueError(msg)
            flat[key] = item
    return flat
