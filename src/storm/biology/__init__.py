"""Kernels of what comes after the domains: contacts, contrasts, enrichment, signatures, composition, stability.

Arrays in, arrays out; :mod:`storm.tl` reads them from objects and writes the results back.
"""
