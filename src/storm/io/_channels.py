"""What files tell about their channels: names, colours, and signs of fluorescence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storm.data.channels import Colour, rgb_order


@dataclass(frozen=True)
class Channels:
    """Channels of an image as its metadata describe them.

    Attributes
    ----------
    names
        Name of each; empty where it has none.
    colours
        Display colour of each, or ``None`` where it has none.
    fluorescent
        The piece of metadata by which the image is fluorescence, or empty.
    """

    names: tuple[str, ...] = ()
    colours: tuple[Colour | None, ...] = ()
    fluorescent: str = ""


def order_of(channels: Channels | None, count: int, name: str) -> tuple[int, int, int]:
    """Which of the separate planes of an image are red, green and blue.

    Parameters
    ----------
    channels
        What the metadata tell; ``None`` if nothing.
    count
        Number of planes.
    name
        The file, for the error.

    Raises
    ------
    ValueError
        If the planes are other than red, green and blue.
    """
    channels = channels or Channels()
    names = channels.names if len(channels.names) == count else ("",) * count
    order = rgb_order(names, channels.colours if len(channels.colours) == count else ())
    if order is not None and not channels.fluorescent:
        return order
    listed: Sequence[Any] = names if any(names) else channels.colours
    told = f"the channels {list(listed)}" if any(listed) else f"{count} channels without names"
    why = f" ({channels.fluorescent})" if channels.fluorescent else ""
    msg = (
        f"{name} holds {told}{why}, which are not red, green and blue: a fluorescence image is not read as H&E. Give "
        f"the file of the H&E; if it is H&E, export it as 8-bit RGB, or name its channels red, green and blue"
    )
    raise ValueError(msg)


def ome_channels(pixels: dict[str, Any]) -> Channels:
    """Channels of an image by its element ``Pixels`` of the OME metadata."""
    listed = _as_list(pixels.get("Channel"))
    fluorescent = ""
    for channel in listed:
        for key in ("Fluor", "EmissionWavelength", "ExcitationWavelength"):
            if channel.get(key):
                fluorescent = f"{key} {channel[key]}"
        for key in ("ContrastMethod", "IlluminationType"):
            if str(channel.get(key, "")).casefold() in ("fluorescence", "epifluorescence"):
                fluorescent = f"{key} {channel[key]}"
    names = tuple(str(channel.get("Name", "")) for channel in listed)
    return Channels(names, tuple(_rgba(channel.get("Color")) for channel in listed), fluorescent)


def omero_channels(omero: Any) -> Channels:
    """Channels of an OME-Zarr image by its ``omero`` metadata."""
    listed = _as_list(omero.get("channels")) if isinstance(omero, dict) else []
    names = tuple(str(channel.get("label") or "") for channel in listed)
    return Channels(names, tuple(_hex(channel.get("color")) for channel in listed))


def imagej_channels(metadata: dict[str, Any] | None) -> Channels:
    """Channels of an ImageJ stack by the labels and lookup tables of its channels."""
    metadata = metadata or {}
    # a label reads "c:1/3 - DAPI"
    names = tuple(str(label).partition(" - ")[2] or str(label) for label in _as_list(metadata.get("Labels")))
    tables = metadata.get("LUTs")
    colours = () if tables is None else tuple((int(t[0][-1]), int(t[1][-1]), int(t[2][-1])) for t in tables)
    return Channels(names, colours)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _rgba(value: Any) -> Colour | None:
    """Colour of OME: a signed number of 32 bits, red first; −1 is white, the default."""
    try:
        bits = int(value) & 0xFFFFFFFF
    except (TypeError, ValueError):
        return None
    return None if bits == 0xFFFFFFFF else (bits >> 24, bits >> 16 & 255, bits >> 8 & 255)


def _hex(value: Any) -> Colour | None:
    try:
        bits = int(str(value), 16)
    except ValueError:
        return None
    return bits >> 16 & 255, bits >> 8 & 255, bits & 255
