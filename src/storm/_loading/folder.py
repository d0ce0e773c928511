"""A model's folder: JSON, safetensors and lists of genes, every file with its checksum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm._files import remove
from storm._loading.fields import Fields, is_plain
from storm._loading.files import read_fields, read_genes, read_json, source_of, write_genes, write_json
from storm._loading.head import ExpressionHead
from storm._loading.head_calibration import CALIBRATION
from storm._loading.parts import ModelParts, check_settings, empty_statistics
from storm._loading.tiles import FILES as TILE_FILES
from storm._loading.tiles import dump_tile_encoder, restore_tile_encoder
from storm.data.genes import Vocabulary
from storm.expression.store import dump, restore
from storm.model.config import StormConfig
from storm.model.storm import Storm
from storm.model.weights import build_from, read_weights, save_state, save_weights, sha256

if TYPE_CHECKING:
    from storm.encoders import EncoderInfo
    from storm.expression import ExpressionEncoder

#: Format that is written; older ones are read, see :func:`_migrate`.
FORMAT = 2
_NETWORK, _STATISTICS, _GENES = "network.safetensors", "statistics.safetensors", "genes.tsv"
_EXPRESSION, _EXPRESSION_GENES = "expression.safetensors", "expression_genes.tsv"
_HEAD = ("head.json", "head.safetensors")
#: Files that not every model has: those of a model that was in the folder before have to go.
_OPTIONAL = (_EXPRESSION, _EXPRESSION_GENES, *_HEAD, CALIBRATION, *TILE_FILES)


def write_parts(parts: ModelParts, path: Path) -> None:
    """Write a model into a folder; the configuration last, so that an incomplete folder is never taken for a model.

    Parameters
    ----------
    parts
        The model.
    path
        The folder; made if it does not exist. Files of a model that was there before are replaced.

    Raises
    ------
    TypeError
        If the expression encoder cannot be stored.
    """
    facts, genes, state = dump(parts.expression)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").unlink(missing_ok=True)
    for name in _OPTIONAL:
        remove(path / name)
    files = {
        _NETWORK: save_weights(parts.network, path / _NETWORK),
        _STATISTICS: save_weights(parts.statistics, path / _STATISTICS),
        _GENES: write_genes(path / _GENES, parts.vocabulary),
    }
    shared = genes == parts.vocabulary
    facts["genes"] = _GENES if shared else _EXPRESSION_GENES
    if not shared:
        files[_EXPRESSION_GENES] = write_genes(path / _EXPRESSION_GENES, genes)
    if state:
        files[_EXPRESSION] = save_state(state, path / _EXPRESSION)
    tile_facts, tile_files = dump_tile_encoder(parts.tile_encoder, path)
    if parts.head is not None:
        parts.head.save(path)
        files |= {name: sha256(path / name) for name in (*_HEAD, CALIBRATION) if (path / name).is_file()}
    files |= tile_files
    values = {
        "format": FORMAT,
        "network": parts.config.to_dict(),
        "tile_encoder": tile_facts,
        "expression": facts,
        "settings": parts.settings,
        "card": parts.card,
        "sha256": files,
        "bytes": {name: (path / name).stat().st_size for name in files},
    }
    write_json(path / "config.json", values)


def leave_out(path: Path, name: str) -> None:
    """Take a file out of a model's folder and of its configuration, so that the model can be handed on without it."""
    remove(path / name)
    values = read_json(path / "config.json")
    for listed in ("sha256", "bytes"):
        values[listed].pop(name, None)
    write_json(path / "config.json", values)


def read_parts(path: Path, *, tile_encoder: str | Path | EncoderInfo | None = None) -> ModelParts:
    """Read a model from a folder.

    Torch's and numpy's random numbers are left alone.

    Parameters
    ----------
    path
        The folder.
    tile_encoder
        The user's own copy of the tile encoder's weights, or a loaded encoder.

    Returns
    -------
    ModelParts

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    TypeError
        If ``tile_encoder`` is neither a path nor an encoder.
    ValueError
        If a file does not match its checksum or the configuration, or the configuration has an impossible field.
    """
    fields = _migrate(read_fields(path / "config.json"), path)
    source = source_of(path / "config.json")
    checks = Checksums(fields.checksums("sha256"), source=source)
    vocabulary = read_genes(path / _GENES, checks[_GENES])
    with in_file(source, "network"):
        config = StormConfig.from_dict(fields.mapping("network"))
    settings = fields.mapping("settings")
    with in_file(source, "settings"):
        check_settings(settings)
    network = build_from(lambda: Storm(config), path / _NETWORK, expected=checks[_NETWORK], sizes=config.sizes())
    # The network's weights have confirmed these two sizes.
    statistics = build_from(lambda: empty_statistics(config), path / _STATISTICS, expected=checks[_STATISTICS])
    expression = _read_expression(fields.section("expression"), path, checks, vocabulary)
    tiles = restore_tile_encoder(fields.section("tile_encoder"), path, checks, tile_encoder)
    parts = ModelParts(
        network=network,
        tile_encoder=tiles,
        expression=expression,
        vocabulary=vocabulary,
        statistics=statistics,
        settings=settings,
        head=_read_head(path, checks),
        card=fields.mapping("card"),
    )
    if parts.head is not None and parts.head.model_sha256 != parts.sha256:
        msg = f"the expression head in {str(path)!r} was trained on another network; copy the model's folder again"
        raise ValueError(msg)
    return parts


class Checksums(dict[str, str]):
    """Checksums by file name, which raise an error of ours for a file that has none."""

    def __init__(self, values: dict[str, str], *, source: str) -> None:
        super().__init__(values)
        self._source = source

    def __missing__(self, name: str) -> str:
        msg = f"{self._source} lists no sha256 of {name!r}, which is needed to read it; save the model again"
        raise ValueError(msg)


@contextmanager
def in_file(source: str, field: str) -> Iterator[None]:
    """Name the file and the field in errors about values that were read from it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        msg = f"{source}, field {field!r}: {error}"
        raise ValueError(msg) from error


def _read_expression(facts: Fields, path: Path, checks: Checksums, vocabulary: Vocabulary) -> ExpressionEncoder:
    genes = facts.text("genes")
    if not is_plain(genes):
        facts.refuse("genes", "the name of a file in this folder")
    own = vocabulary if genes == _GENES else read_genes(path / genes, checks[genes])
    state = read_weights(path / _EXPRESSION, expected=checks[_EXPRESSION]) if _EXPRESSION in checks else {}
    with in_file(source_of(path / "config.json"), "expression"):
        return restore({name: facts.raw(name) for name in facts.names() if name != "genes"}, own, state)


def _read_head(path: Path, checks: Checksums) -> ExpressionHead | None:
    if not any(name in checks or (path / name).is_file() for name in _HEAD):
        return None
    for name in _HEAD:
        if name not in checks:
            msg = (
                f"{source_of(path / 'config.json')} lists no sha256 of {name!r}; save the model again with its head "
                f"(dataclasses.replace(model, head=head).save(folder)), or take {' and '.join(_HEAD)} out of the folder"
            )
            raise ValueError(msg)
    if (path / "head.json").is_file() and sha256(path / "head.json") != checks["head.json"]:
        msg = f"{source_of(path / 'head.json')} does not match its sha256 in config.json; copy the model's folder again"
        raise ValueError(msg)
    return ExpressionHead.load(path)


def _migrate(fields: Fields, path: Path) -> Fields:
    """The configuration in today's format.

    Raises
    ------
    ValueError
        If this version of storm does not read its format.
    """
    version = fields.raw("format") if "format" in fields else None
    if version == FORMAT and not isinstance(version, bool):
        return fields
    if version == 1 and not isinstance(version, bool):
        # The first format had packaged encoders only, and their facts were among the settings.
        settings = fields.mapping("settings")
        network = fields.section("network")
        old = fields.section("settings")
        values: dict[str, Any] = {name: fields.raw(name) for name in fields.names()}
        values |= {
            "format": FORMAT,
            "settings": {k: v for k, v in settings.items() if k not in ("tile_encoder", "min_genes")},
            "tile_encoder": {
                "name": old.text("tile_encoder"),
                "dim": network.whole("he_dim"),
                "sha256": None,
                "modified": False,
            },
            "expression": {
                "kind": "factors",
                "dim": fields.whole("expression_dim"),
                "min_genes": old.whole("min_genes", least=0),
                "name": "factors",
                "genes": _GENES,
            },
        }
        return Fields(values, source=source_of(path / "config.json"))
    msg = (
        f"the model in {str(path)!r} has format {version!r}, and this version of storm reads formats 1 to {FORMAT}; "
        "update storm (pip install -U storm-spatial), or save the model again with the version that wrote it"
    )
    raise ValueError(msg)
