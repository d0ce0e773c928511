"""``storm export``: domains and scores for the viewers of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import storm
from storm import _keys
from storm.cli._stores import check_parent, read_object


def export(viewer: str, *, path: Path, out: Path, **options: Any) -> None:
    """Write the files of one object, and print their names."""
    check_parent(out, option="OUT", shown=out)
    data = read_object(path)
    if viewer == "loupe":
        written = storm.io.to_loupe(data, out, options.pop("keys") or _keys.DOMAIN, **options)
    elif viewer == "xenium-explorer":
        written = storm.io.to_xenium_explorer(data, out, options.pop("key"), **options)
    else:
        written = storm.io.to_qupath(data, out, options.pop("key"), scores=options.pop("scores") or (), **options)
    for file in written:
        print(file)
