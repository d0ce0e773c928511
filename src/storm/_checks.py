"""Validators with the package's error wording: name the bad value, list what there is, say what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any


def check_choice(value: Any, choices: Iterable[Any], *, name: str) -> None:
    """Raise if ``value`` is none of ``choices``."""
    options = list(choices)
    if value not in options:
        msg = f"{name}={value!r} is not an option; choose one of {options}"
        raise ValueError(msg)


def check_key(key: str, available: Collection[str], *, name: str, where: str) -> None:
    """Raise if ``key`` does not exist in ``available``."""
    if key not in available:
        there = ", ".join(map(repr, available)) or "nothing"
        msg = f"{name}={key!r} is not in {where}, which holds: {there}"
        raise KeyError(msg)


def check_positive(value: float, *, name: str, unit: str = "") -> None:
    """Raise if ``value`` is not a finite number above zero."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        msg = f"{name} is a number{' in ' + unit if unit else ''}, not {value!r}"
        raise TypeError(msg)
    if not 0 < float(value) < float("inf"):
        msg = f"{name}={value!r} must be positive and finite{' (' + unit + ')' if unit else ''}"
        raise ValueError(msg)


def check_extra(module: str, *, extra: str, purpose: str) -> None:
    """Raise with the exact pip command if an optional package is missing."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        msg = f"{purpose} needs the package {module!r}; install it with: pip install 'storm-spatial[{extra}]'"
        raise ImportError(msg)
