"""Validators with the package's error wording: name the bad value, list what there is, say what to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

#: Longest key: file systems end at 255 bytes, and temporary names are longer than the key.
_LONGEST_KEY = 200
#: Names that zarr and AnnData give to files and columns of their own.
_FORMAT_NAMES = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata", "_index")


def check_choice(value: Any, choices: Iterable[Any], *, name: str) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    options = list(choices)
    try:
        # By hash: pandas.NA and arrays do not say whether they are equal to a text.
        known = value in set(options)
    except TypeError:
        known = False
    if not known:
        msg = f"{name}={value!r} is not an option; choose one of {options}"
        raise ValueError(msg)


def check_key(key: str, available: Collection[str], *, name: str, where: str) -> None:
    """Raise if ``key`` does not exist in ``available``."""
    if not isinstance(key, str) or key not in available:
        listed = ", ".join(map(repr, available)) or "nothing"
        msg = f"{name}={key!r} is not in {where}, which holds: {listed}"
        raise KeyError(msg)


def check_frame(table: Any, columns: Collection[str] = (), *, name: str, source: str) -> None:
    """Raise unless ``table`` is a data frame with the given columns; ``source`` says what has them.

    Raises
    ------
    TypeError
        If it is something else.
    KeyError
        If it lacks columns.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        msg = f"{name} is a {type(table).__name__}, not a data frame; give {source}"
        raise TypeError(msg)
    if lacking := [column for column in columns if column not in table]:
        msg = f"{name} has no column {lacking}; give {source}"
        raise KeyError(msg)


def check_positive(value: float, *, name: str, unit: str = "") -> None:
    """Raise if ``value`` is not a finite number above zero."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        msg = f"{name} is a number{' in ' + unit if unit else ''}, not {value!r}"
        raise TypeError(msg)
    if not 0 < float(value) < float("inf"):
        msg = f"{name}={value!r} must be positive and finite{' (' + unit + ')' if unit else ''}"
        raise ValueError(msg)


def check_whole(value: Any, *, name: str, least: int = 1) -> int:
    """Return ``value`` as an int; raise unless it is a whole number (of Python or numpy) of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        msg = f"{name}={value!r} must be a whole number of at least {least}"
        raise ValueError(msg)
    return int(value)


def check_between(value: Any, *, name: str, low: float, high: float) -> float:
    """Return ``value`` as a float; raise unless it is a finite number from ``low`` to ``high``, both included."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else float("nan")
    # A NaN compares as false.
    if not low <= number <= high or number == float("inf"):
        span = f"of at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        msg = f"{name}={value!r} must be a number {span}"
        raise ValueError(msg)
    return number


def check_genes(genes: str | Iterable[str]) -> list[str]:
    """Return genes, of which the user gave one or several, as a list.

    Raises
    ------
    ValueError
        If there is none, or one is given twice.
    TypeError
        If a gene is not text, or ``genes`` no list.
    """
    if not isinstance(genes, str) and not isinstance(genes, Iterable):
        msg = f"genes={genes!r} is a {type(genes).__name__}; give one gene or a list of genes as text"
        raise TypeError(msg)
    names = [genes] if isinstance(genes, str) else list(genes)
    if not names:
        msg = "genes is empty; give at least one gene, or leave it out"
        raise ValueError(msg)
    for name in names:
        if not isinstance(name, str):
            msg = f"genes holds {name!r}, a {type(name).__name__}; give symbols or Ensembl ids as text"
            raise TypeError(msg)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"genes names {twice[:10]} more than once; give each gene once"
        raise ValueError(msg)
    return [str(name) for name in names]


def domain_names(given: Any, *, name: str) -> list[str]:
    """Names of domains as a list without repeats, of one or several; a whole number is the name ``"0"``, ``"1"``, ….

    Raises
    ------
    TypeError
        If it is neither.
    """
    single = isinstance(given, str | Integral)
    if not single and not isinstance(given, Iterable):
        msg = f"{name}={given!r} is a {type(given).__name__}; give the name of a domain as text, or a list of names"
        raise TypeError(msg)
    return list(dict.fromkeys(str(one) for one in ([given] if single else given)))


def check_gene_lists(given: Mapping[str, Iterable[str]], *, name: str) -> dict[str, list[str]]:
    """Return named lists of genes, such as gene sets or markers by type, as lists.

    Raises
    ------
    TypeError
        If one of them is no list, or text, of which each letter would be a gene.
    """
    for one, genes in given.items():
        if isinstance(genes, str | bytes) or not isinstance(genes, Iterable):
            msg = f"{name}[{one!r}] is {genes!r}, and must be a list of genes: {{{one!r}: ['EPCAM', 'KRT8']}}"
            raise TypeError(msg)
    return {one: list(genes) for one, genes in given.items()}


def check_mapping(value: Any, *, name: str, example: str) -> None:
    """Raise unless ``value`` is a dictionary, of which ``example`` is one."""
    if not isinstance(value, Mapping):
        msg = f"{name}={value!r} is a {type(value).__name__}; give a dictionary such as {example}"
        raise TypeError(msg)


def check_new_key(key: Any, *, name: str = "key_added", reserved: Collection[str] = ()) -> str:
    """Return a key under which a result is to be written; raise unless AnnData and SpatialData can store it.

    Parameters
    ----------
    key
        What the user gave.
    name
        The argument's name, for the error.
    reserved
        Names that mean something else in the place that the result goes to, such as ``"spatial"`` in ``obsm``.

    Raises
    ------
    TypeError
        If the key is not text.
    ValueError
        If it is empty, too long or reserved, begins with two underscores, is a name that the file formats use
        themselves, or has characters other than letters, digits, ``_``, ``-`` and ``.``.
    """
    if not isinstance(key, str):
        msg = f"{name}={key!r} is a {type(key).__name__}; give the key as text, for example 'my_key'"
        raise TypeError(msg)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", key) or key.strip(".") == "" or key.startswith("__"):
        msg = (
            f"{name}={key!r} cannot be stored: use ASCII letters, digits, '_', '-' and '.', not dots alone and no '__' "
            "at the start"
        )
        raise ValueError(msg)
    if len(key) > _LONGEST_KEY:
        msg = f"{name}={key[:20] + '…'!r} has {len(key)} characters; a key has at most {_LONGEST_KEY}"
        raise ValueError(msg)
    taken = {*_FORMAT_NAMES, *reserved}
    if key.casefold() in {one.casefold() for one in taken}:
        listed = ", ".join(map(repr, sorted(taken)))
        msg = f"{name}={key!r} is reserved, because it has a meaning of its own there; reserved are {listed}"
        raise ValueError(msg)
    return key


def check_extra(module: str, *, extra: str, purpose: str) -> None:
    """Raise with the exact pip command if an optional package is missing."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        msg = f"{purpose} needs the package {module!r}; install it with: pip install 'storm-spatial[{extra}]'"
        raise ImportError(msg)
