from ._adapt import adapt as adapt
from ._adjacent_domains import adjacent_domains as adjacent_domains
from ._domains import domains as domains
from ._embed import embed as embed
from ._encode_tiles import encode_tiles as encode_tiles
from ._fit_expression import fit_expression as fit_expression
from ._predict_expression import predict_expression as predict_expression
from ._rank_domain_genes import rank_domain_genes as rank_domain_genes
