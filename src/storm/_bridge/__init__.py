"""The one place where SpatialData and AnnData meet arrays: reading spots, writing results."""

from storm._bridge.persist import persist
from storm._bridge.read import read_spots
from storm._bridge.scale import ScaleSources, resolve_scale
from storm._bridge.select import select_table
from storm._bridge.tiles import make_tile_table
from storm._bridge.view import SectionView, read_view
from storm._bridge.write import add_elements, annotate_like, check_writable, write_results

__all__ = [
    "ScaleSources",
    "SectionView",
    "add_elements",
    "annotate_like",
    "check_writable",
    "make_tile_table",
    "persist",
    "read_spots",
    "read_view",
    "resolve_scale",
    "select_table",
    "write_results",
]
