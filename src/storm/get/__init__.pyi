from ._adjacent_domains import adjacent_domains as adjacent_domains
from ._composition import composition as composition
from ._composition import composition_tests as composition_tests
from ._domain_stability import domain_stability as domain_stability
from ._enrich import enrich as enrich
from ._rank_domain_genes import rank_domain_genes as rank_domain_genes
from ._signature import signature as signature
