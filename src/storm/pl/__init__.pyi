from ._check import check as check
from ._contact import contact as contact
from ._domains import domains as domains
from ._enrichment import enrichment as enrichment
from ._expression import expression as expression
from ._he import he as he
from ._proportions import proportions as proportions
from ._volcano import volcano as volcano
