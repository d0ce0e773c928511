from ._check import check as check
from ._domains import domains as domains
from ._expression import expression as expression
from ._he import he as he
from ._proportions import proportions as proportions
