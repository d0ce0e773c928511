"""Which channels of an image are red, green and blue, by the names and colours that a file gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Names of the three channels of H&E.
RGB = ("r", "g", "b")
_WORDS = {"r": 0, "red": 0, "g": 1, "green": 1, "b": 2, "blue": 2}
#: Names that say nothing about a channel but its number: "", "0", "Channel 1", "C:2", "channel_0".
_NUMBERED = re.compile(r"(channels?|chan|ch|c)?[ :._-]*(\d+[ :._-]*)*", re.IGNORECASE)
_COLOURS = {(255, 0, 0): 0, (0, 255, 0): 1, (0, 0, 255): 2}

Colour = tuple[int, int, int]


def rgb_order(names: Sequence[str], colours: Sequence[Colour | None] = ()) -> tuple[int, int, int] | None:
    """Where the red, green and blue channels are.

    Names count first. Channels that are only numbered are told by their display colours, and without these are taken
    in their order, as viewers do.

    Parameters
    ----------
    names
        Name of each channel; empty where it has none.
    colours
        Colour (red, green, blue, 0 to 255) in which each channel is to be shown; ``None`` where it has none.

    Returns
    -------
    tuple or None
        Positions of red, green and blue; ``None`` if the channels are something else, such as stains and antibodies.
    """
    if len(names) != 3:
        return None
    places = [_WORDS.get(name.strip().casefold()) for name in names]
    if None in places:
        if not all(_NUMBERED.fullmatch(name.strip()) for name in names):
            return None
        shown = [colour for colour in colours if colour is not None]
        # one colour for all, usually white, is a writer's default
        places = [_COLOURS.get(colour) for colour in shown] if len(set(shown)) > 1 else [0, 1, 2]
    if sorted(place for place in places if place is not None) != [0, 1, 2] or len(places) != 3:
        return None
    return places.index(0), places.index(1), places.index(2)
