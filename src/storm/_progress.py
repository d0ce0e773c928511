"""Progress bars with the time left: shown in terminals and notebooks, not in files and pipes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from storm._settings import settings


class _Sections(Protocol):
    """A list of sections, or a study."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


def over_sections(sections: _Sections, *, desc: str = "sections") -> Any:
    """Some sections, with a bar that tells the time left where there are several."""
    return progress(sections, desc=desc, unit="section", total=len(sections), shown=len(sections) > 1)


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    shown: bool = True,
) -> Any:
    """A bar of tqdm, over something or to be moved by hand; one inside another disappears when it ends.

    Parameters
    ----------
    iterable
        What is gone through; ``None`` for a bar with a ``total`` that is moved by hand.
    desc, unit
        What is done, and to what, in a word each.
    total, initial
        Number of units, and of those that are done already.
    shown
        False for work that no user waits for, such as that of another process.
    """
    from tqdm.auto import tqdm

    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    return tqdm(
        iterable,
        desc=desc,
        unit=unit,
        total=total,
        initial=initial,
        # None: hidden where the output is not a terminal, which that of a notebook is not
        disable=True if settings.verbosity == 0 or not shown else False if notebook else None,
        # None: a bar inside another one leaves nothing behind
        leave=True if notebook else None,
    )
