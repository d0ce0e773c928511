from ._st import st as st
