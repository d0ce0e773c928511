"""Values of options, converted from text and checked: types for ``argparse``, which names the option in an error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from storm._checks import check_new_key

#: Largest seed that every library takes (numpy's legacy generators take 32 bits).
_LARGEST_SEED = 2**32 - 1


def whole(least: int) -> Callable[[str], int]:
    """Whole numbers of at least ``least``."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            msg = f"{text!r} is not a whole number of at least {least}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return convert


def seed(text: str) -> int:
    """Random seeds."""
    value = whole(0)(text)
    if value > _LARGEST_SEED:
        msg = f"{text!r} is larger than {_LARGEST_SEED}, the largest seed"
        raise argparse.ArgumentTypeError(msg)
    return value


def n_domains(text: str) -> int | str:
    """Numbers of domains, or ``"auto"``."""
    return text if text == "auto" else whole(2)(text)


def tile_px(text: str) -> int | str:
    """Sides of a tile in pixels, or ``"native"``."""
    return text if text == "native" else whole(1)(text)


def positive(text: str) -> float:
    """Finite numbers above zero, with a decimal point."""
    value = _number(text)
    if not 0 < value < math.inf:
        msg = f"{text!r} is not a positive number; give for example 0.5"
        raise argparse.ArgumentTypeError(msg)
    return value


def number(text: str) -> float:
    """Finite numbers; the function that takes one checks its range."""
    value = _number(text)
    if not math.isfinite(value):
        msg = f"{text!r} is not a number; give for example 0.5"
        raise argparse.ArgumentTypeError(msg)
    return value


def share(most: float) -> Callable[[str], float]:
    """Numbers from 0 to ``most``."""

    def convert(text: str) -> float:
        value = _number(text)
        if not 0 <= value <= most:
            msg = f"{text!r} is not a number from 0 to {most}"
            raise argparse.ArgumentTypeError(msg)
        return value

    return convert


def _number(text: str) -> float:
    """The number, or NaN, which is outside of every range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def one_of(choices: Sequence[Any]) -> Callable[[str], Any]:
    """The choice that is written so; any other text as it is, which ``argparse`` then refuses."""
    by_text = {str(choice): choice for choice in choices}
    return lambda text: by_text.get(text, text)


def named(value: Callable[[str], Any]) -> Callable[[str], tuple[str | None, Any]]:
    """Values with the name of what they are for, as in ``A=0.5``; without one, the name is ``None``."""

    def convert(text: str) -> tuple[str | None, Any]:
        name, equals, rest = text.partition("=")
        return (name, value(rest)) if equals and not Path(text).exists() else (None, value(text))

    return convert


def new_key(*reserved: str) -> Callable[[str], str]:
    """Keys under which a result can be stored; what the section itself reserves is checked when it is open."""

    def convert(text: str) -> str:
        try:
            return check_new_key(text, name="key", reserved=reserved)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def table_file(text: str) -> Path:
    """Names of CSV and JSON files."""
    if Path(text).suffix not in (".csv", ".json"):
        msg = f"{text!r} ends in neither .csv nor .json"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)
