"""Arguments that plots share, checked before a figure is made."""

from __future__ import annotations

from numbers import Real
from typing import Any

from storm._checks import check_positive


def check_style(*, size: float, image_alpha: float, alpha: float = 1.0) -> None:
    """Raise unless a size is positive and opacities lie between 0 and 1.

    Parameters
    ----------
    size
        Factor on the size of the spots.
    alpha, image_alpha
        Opacities of the spots and of the H&E.

    Raises
    ------
    TypeError
        If one of them is not a number.
    ValueError
        If one of them is outside of its range.
    """
    check_positive(size, name="size")
    for name, value in {"alpha": alpha, "image_alpha": image_alpha}.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            msg = f"{name}={value!r} is a {type(value).__name__}; give a number from 0 (transparent) to 1 (opaque)"
            raise TypeError(msg)
        if not 0 <= value <= 1:
            msg = f"{name}={value!r} must be from 0 (transparent) to 1 (opaque)"
            raise ValueError(msg)


def check_axes(ax: Any) -> None:
    """Raise unless ``ax`` is ``None`` or one matplotlib axes.

    Raises
    ------
    TypeError
        If it is something else, such as the array that ``plt.subplots(1, 2)`` returns.
    """
    from matplotlib.axes import Axes

    if ax is not None and not isinstance(ax, Axes):
        msg = f"ax is a {type(ax).__name__}; give one matplotlib axes, for example plt.subplots()[1], or None"
        raise TypeError(msg)


def check_one_section(ax: Any, names: list[str]) -> None:
    """Raise if one axes is given for several sections.

    Parameters
    ----------
    ax
        What the user gave.
    names
        The sections.

    Raises
    ------
    ValueError
        If it is not ``None``, and there are several.
    """
    if ax is not None and len(names) > 1:
        msg = f"one ax was given for {len(names)} sections, {names}; leave ax out, or draw one of them"
        raise ValueError(msg)


def check_cmap(cmap: Any) -> None:
    """Raise unless ``cmap`` is a colour map of matplotlib, or the name of one.

    Raises
    ------
    ValueError
        If there is no such colour map.
    """
    import matplotlib as mpl

    if not isinstance(cmap, mpl.colors.Colormap) and cmap not in list(mpl.colormaps):
        msg = f"cmap={cmap!r} is not a colour map; give a name in matplotlib.colormaps, for example 'viridis'"
        raise ValueError(msg)


def check_colours(colours: list[Any], *, name: str) -> None:
    """Raise unless all of them are colours of matplotlib.

    Raises
    ------
    ValueError
        If some are not.
    """
    from matplotlib.colors import is_color_like

    if wrong := [colour for colour in colours if not is_color_like(colour)]:
        msg = f"{name} holds {wrong}, which are not colours; give names such as 'red', or hex codes such as '#0072B2'"
        raise ValueError(msg)
