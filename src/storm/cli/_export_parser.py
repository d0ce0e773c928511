"""Options of ``storm export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from storm import _keys
from storm.cli import _values

#: Formats, what they are for, and the ending of their files.
FORMATS = {
    "loupe": ("domains and scores as categories for Loupe Browser", "OUT.csv"),
    "xenium-explorer": ("domains or a score as cell groups for Xenium Explorer", "OUT.csv"),
    "qupath": ("spots, bins, cells or tiles with domains and scores for QuPath", "OUT.geojson"),
}


def add_export(export: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add a sub-command for each format."""
    formats = export.add_subparsers(dest="viewer", metavar="VIEWER", required=True)
    for name, (summary, out) in FORMATS.items():
        one = formats.add_parser(name, help=summary, description=f"Write {summary}.", parents=[common])
        one.add_argument("path", type=Path, metavar="STORE", help="a SpatialData store or a file .h5ad")
        one.add_argument("out", type=Path, metavar=out, help="file to write; of several sections one for each")
        if name == "loupe":
            one.add_argument("--key", dest="keys", action="append", metavar="COLUMN", help=f"{_KEY}; may be repeated")
            one.add_argument("--barcode-key", metavar="COLUMN", help="column of obs with the barcodes")
        else:
            one.add_argument("--key", metavar="COLUMN", default=_keys.DOMAIN, help=_KEY)
        if name == "xenium-explorer":
            one.add_argument("--cell-id-key", metavar="COLUMN", help="column of obs with Xenium's names of the cells")
        if name == "qupath":
            _qupath(one)
        one.add_argument(
            "--n-classes", type=_values.whole(2), default=5, help="classes of a column of measurements (default: 5)"
        )
        one.add_argument("--library-key", metavar="COLUMN", help="column of obs that names the section of each row")
        one.add_argument("--table-key", help="the table, if there are several")
        one.add_argument("--overwrite", action="store_true", help="replace files that exist")


_KEY = f"column of obs with the groups (default: {_keys.DOMAIN})"


def _qupath(qupath: argparse.ArgumentParser) -> None:
    qupath.add_argument(
        "--score", dest="scores", action="append", metavar="COLUMN", help="column of measurements; may be repeated"
    )
    qupath.add_argument(
        "--object-type",
        choices=["detection", "annotation", "tile", "cell"],
        default="detection",
        help="what the objects are in QuPath (default: detection)",
    )
    qupath.add_argument(
        "--pixel-um", type=_values.positive, help="µm per pixel of the image in QuPath, if it is not the section's own"
    )
    qupath.add_argument("--image-key", help="the image, if there are several")
    qupath.add_argument("--shapes-key", help="the spots, if the table annotates several elements")
    qupath.add_argument("--coordinate-system", help="system in which image and spots are aligned")
    qupath.add_argument("--um-per-px", type=_values.positive, help="µm per pixel of the section's image")
