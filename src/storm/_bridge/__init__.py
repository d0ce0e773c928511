"""The one place where SpatialData and AnnData meet arrays: reading spots, writing results."""

from storm._bridge.keys import Keys
from storm._bridge.persist import persist
from storm._bridge.read import read_spots, spots_of
from storm._bridge.scale import ScaleSources, resolve_scale
from storm._bridge.select import select_table
from storm._bridge.selection import Selection, select
from storm._bridge.staging import missing, recover
from storm._bridge.tiles import make_tile_table
from storm._bridge.view import SectionView, read_view, view_of
from storm._bridge.write import add_elements, annotate_like, check_writable, write_results

__all__ = [
    "Keys",
    "ScaleSources",
    "SectionView",
    "Selection",
    "add_elements",
    "annotate_like",
    "check_writable",
    "make_tile_table",
    "missing",
    "persist",
    "read_spots",
    "read_view",
    "recover",
    "resolve_scale",
    "select",
    "select_table",
    "spots_of",
    "view_of",
    "write_results",
]
