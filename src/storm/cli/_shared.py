"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from storm._types import Field, Modality, Readout
from storm.cli import _values
from storm.cli._command import Command
from storm.cli._many_options import add_many


def library_key(parser: argparse.ArgumentParser) -> None:
    """The column that tells sections apart."""
    parser.add_argument("--library-key", metavar="COLUMN", help="column of obs that names the section of each row")


def seed(parser: argparse.ArgumentParser) -> None:
    """The random seed."""
    parser.add_argument("--seed", type=_values.seed, default=0, help="random seed (default: 0)")


def batch_size(parser: argparse.ArgumentParser) -> None:
    """Tiles or windows per batch."""
    parser.add_argument("--batch-size", type=_values.whole(1), help="tiles or windows per batch")


def layer(parser: argparse.ArgumentParser) -> None:
    """The layer with the counts."""
    parser.add_argument("--layer", help="layer with the raw counts (default: X)")


def field_um(parser: argparse.ArgumentParser, *, of: str) -> None:
    """The edge of the H&E field; ``of`` says whose is the default."""
    parser.add_argument("--field-um", type=_values.positive, help=f"edge of the H&E field in µm (default: {of})")


def field(parser: argparse.ArgumentParser) -> None:
    """How the H&E field is encoded."""
    parser.add_argument(
        "--field",
        choices=get_args(Field),
        default="exact",
        help="dense: one pass over the tissue, for bins and cells (default: exact)",
    )


def modality(parser: argparse.ArgumentParser) -> None:
    """What an embedding is made from."""
    parser.add_argument("--modality", choices=get_args(Modality), default="auto", help="default: auto")


def readout(parser: argparse.ArgumentParser) -> None:
    """How tokens become a vector."""
    parser.add_argument("--readout", choices=get_args(Readout), help="default: the model's")


def store_options() -> Command:
    """Stores that are read and written, one or several."""
    options = Command(add_help=False)
    options.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    options.add_argument(
        "--out",
        type=Path,
        metavar="OUT.zarr",
        help="write a new store, or a folder of stores for several sections (default: add the results to IN.zarr)",
    )
    options.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out sections that were done with the same settings of the same data; the others are named",
    )
    options.add_argument(
        "--dry-run", action="store_true", help="say what would be done, in which time and memory, and write nothing"
    )
    add_many(options, "stores", a="section")
    return options


def input_options() -> Command:
    """What is read of a section, and its scale."""
    options = Command(add_help=False)
    options.add_argument("--image-key", help="the H&E image, if there are several")
    options.add_argument("--table-key", help="the table, if there are several")
    options.add_argument("--shapes-key", help="the spots, if the table annotates several elements")
    options.add_argument(
        "--coordinate-system", help="system in which image and spots are aligned (default: the one in µm, else global)"
    )
    options.add_argument(
        "--um-per-px", type=_values.positive, help="µm per pixel of the image, if the store does not give it"
    )
    return options


def model_options(device: Command) -> Command:
    """The model, and where it runs."""
    model = Command(add_help=False, parents=[device])
    model.add_argument(
        "--model",
        default="storm-mini",
        help="packaged model, a model's folder, or its name in the hub's cache on this machine (default: storm-mini)",
    )
    model.add_argument(
        "--tile-encoder", type=Path, metavar="FILE", help="your copy of the weights of the model's tile encoder"
    )
    return model
