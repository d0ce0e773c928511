from ._adjacent_domains import adjacent_domains as adjacent_domains
