from ._dlpfc import dlpfc as dlpfc
from ._gene_sets import gene_sets as gene_sets
from ._her2st import her2st as her2st
from ._mob import mob as mob
from ._signatures import signatures as signatures
from ._starmap import starmap as starmap
from ._toy import toy as toy
from ._toy_cohort import toy_cohort as toy_cohort
