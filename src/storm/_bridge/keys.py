"""Which elements of an object a call is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The elements of an object, and their scale, as the user gave them; the names are those of :func:`storm.tl.embed`.

    Attributes
    ----------
    image_key
        The H&E image; ``None`` for the only one.
    table_key
        The table; ``None`` for the only one.
    shapes_key
        The shapes, points or labels that the table annotates; ``None`` for the only ones.
    coordinate_system
        Where image and shapes meet; ``None`` for the one in µm, else ``"global"``.
    um_per_px
        µm per pixel of the full-resolution image; ``None`` for what the object itself records.
    layer
        Layer with the raw counts; ``None`` for ``X``.

    Raises
    ------
    TypeError
        If a name is not text.
    """

    image_key: str | None = None
    table_key: str | None = None
    shapes_key: str | None = None
    coordinate_system: str | None = None
    um_per_px: float | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_key", "table_key", "shapes_key", "coordinate_system", "layer"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                msg = f"{name}={value!r} is a {type(value).__name__}; give one name as text, or None"
                raise TypeError(msg)
