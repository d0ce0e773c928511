from ._adjacent_domains import adjacent_domains as adjacent_domains
from ._enrich import enrich as enrich
from ._rank_domain_genes import rank_domain_genes as rank_domain_genes
