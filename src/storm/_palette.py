"""Colours of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from typing import Any

import numpy as np

#: Colours that remain distinct in all common forms of colour vision (Okabe and Ito 2008); those of H&E come last.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#F0E442", "#56B4E9", "#D55E00", "#000000", "#CC79A7")


def palette(n: int) -> list[str]:
    """Return n colours: Okabe and Ito's eight, then darker, then lighter ones (everyone can see lightness).

    From the 25th on they repeat.
    """
    from matplotlib.colors import to_hex, to_rgb

    colours = []
    for i in range(n):
        red, green, blue = to_rgb(OKABE_ITO[i % len(OKABE_ITO)])
        step = (i // len(OKABE_ITO)) % 3
        if step == 1:
            # Black cannot become darker: a dark grey stands for it.
            factor, offset = (0.55, 0.0) if red or green or blue else (0.0, 0.33)
        else:
            factor, offset = (1.0, 0.0) if step == 0 else (0.4, 0.6)
        colours.append(to_hex((red * factor + offset, green * factor + offset, blue * factor + offset)))
    return colours


def stored_colours(stored: Any, n: int) -> list[str] | None:
    """The first n of the colours that a table keeps for categories; ``None`` if they are too few, or not colours."""
    from matplotlib.colors import is_color_like

    if not isinstance(stored, list | tuple | np.ndarray) or len(stored) < n:
        return None
    colours = list(stored)[:n]
    return colours if all(map(is_color_like, colours)) else None


def kept_colours(stored: Mapping[str, str], earlier: Sequence[str], names: Sequence[str]) -> list[str]:
    """One colour per category: that of its name before, or one that no name had.

    Parameters
    ----------
    stored
        Colours of earlier categories by name, where a table keeps them; the others have those of :func:`palette`.
    earlier
        Names of the earlier categories.
    names
        Names of the categories.

    Returns
    -------
    list of str
        Hex codes.
    """
    from matplotlib.colors import to_hex, to_rgba

    drawn = dict(zip(earlier, map(to_hex, palette(len(earlier))), strict=True))
    by_name = drawn | {name: to_hex(c, keep_alpha=to_rgba(c)[3] < 1) for name, c in stored.items() if name in drawn}
    every = palette(len(earlier) + len(names))
    fresh = chain((colour for colour in every if colour not in by_name.values()), cycle(every))
    return [by_name[name] if name in by_name else next(fresh) for name in names]
