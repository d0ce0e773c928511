from ._cosmx import cosmx as cosmx
from ._slide import slide as slide
from ._st import st as st
from ._visium import visium as visium
from ._visium_hd import visium_hd as visium_hd
from ._xenium import xenium as xenium
