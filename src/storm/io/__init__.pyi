from ._cosmx import cosmx as cosmx
from ._from_anndata import from_anndata as from_anndata
from ._slide import slide as slide
from ._st import st as st
from ._visium import visium as visium
from ._visium_hd import visium_hd as visium_hd
from ._xenium import xenium as xenium
