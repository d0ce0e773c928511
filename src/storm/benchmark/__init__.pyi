from ._domains import domains as domains
from ._methods import methods as methods
from ._summary import summary as summary
