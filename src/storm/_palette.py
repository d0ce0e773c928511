"""Colours of categories."""

from __future__ import annotations

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
