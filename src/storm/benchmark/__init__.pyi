from ._domains import domains as domains
from ._expression import expression as expression
from ._expression_summary import by_section as by_section
from ._expression_summary import top_n as top_n
from ._methods import methods as methods
from ._summary import summary as summary
