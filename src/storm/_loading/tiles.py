"""The tile encoder of a stored model: published weights by name and checksum, own weights in a file of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from storm._loading.fields import Fields
from storm._loading.files import write_text
from storm.encoders import EncoderInfo, LoadedEncoder, get_encoder, load_encoder
from storm.encoders.info import Channels
from storm.encoders.loading import build_with, inner_module
from storm.model.weights import read_weights, save_weights, sha256

WEIGHTS, LICENCE = FILES = "tile_encoder.safetensors", "TILE_ENCODER_LICENCE.txt"
_FACTS = (
    "name", "maker", "dim", "tile_px", "field_um", "mean", "std", "licence", "gated", "patch_px", "any_size",
    "native_um_per_px", "page", "hub_id", "citation", "sha256", "modified",
)  # fmt: skip


def dump_tile_encoder(info: EncoderInfo, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Write what has to be stored of a tile encoder.

    Parameters
    ----------
    info
        The encoder.
    folder
        Gets the encoder's weights, if they are not the published ones, and their licence.

    Returns
    -------
    facts : dict
        For the configuration.
    checksums : dict of str to str
        Of the files that were written, by name.
    """
    facts = {key: getattr(info, key) for key in _FACTS}
    if not info.modified:
        return facts, {}
    checksum = save_weights(inner_module(info.build()), folder / WEIGHTS)
    source = info.hub_id or info.name
    write_text(
        folder / LICENCE,
        f"{WEIGHTS} holds weights of the architecture of {source}"
        f"{' by ' + info.maker if info.maker else ''}, changed after they were published or drawn at random.\n"
        f"Licence of {source}: {info.licence}{' (gated)' if info.gated else ''}. Terms: {info.page or 'not stated'}\n"
        "Where they derive from the published weights, that licence holds for them too: do not hand them on unless it "
        f"allows that.\nTo cite: {info.citation or 'not stated'}\n",
    )
    return facts, {WEIGHTS: checksum, LICENCE: sha256(folder / LICENCE)}


def restore_tile_encoder(
    facts: Fields, folder: Path, checks: Mapping[str, str], given: str | Path | EncoderInfo | None
) -> EncoderInfo:
    """Tile encoder with the facts that :func:`dump_tile_encoder` wrote; its weights are read when it is first built.

    Parameters
    ----------
    facts
        Its section of the configuration.
    folder, checks
        Folder and checksums of the stored model.
    given
        The user's own copy of the weights, or a loaded encoder.

    Raises
    ------
    TypeError
        If ``given`` is neither a path nor an encoder.
    ValueError
        If a fact has an impossible value, or ``given`` is not what the model was trained with.
    """
    if given is not None and not isinstance(given, str | Path | EncoderInfo):
        msg = (
            f"tile_encoder={given!r} is a {type(given).__name__}; give the path of its weights (text or pathlib.Path), "
            "or what storm.encoders.load_encoder or wrap_encoder returned"
        )
        raise TypeError(msg)
    name, dim, modified = facts.text("name"), facts.whole("dim"), facts.flag("modified")
    # Checksums of callables are no sha256: they are valid for one session.
    sha256 = facts.optional_text("sha256")
    stored = _Stored(name=name, dim=dim, sha256=sha256, modified=modified)
    if isinstance(given, EncoderInfo):
        return stored.check(given)
    try:
        known = get_encoder(name)
    except ValueError:
        known = None  # a user's own, or one that this version of timm does not have
    if known is not None and known.dim != dim:
        facts.refuse("dim", f"{known.dim}, the length of an embedding by {name!r} in this version of storm")
    if given is None and known is not None and known.architecture is None:
        return known  # the package's own code, without weights
    info = _described(facts) if known is None else known
    if given is not None:
        if known is None:
            msg = (
                f"the model was trained with the tile encoder {name!r}, whose network storm does not know; give "
                "tile_encoder=storm.encoders.wrap_encoder(module, …) instead of its weights alone"
            )
            raise ValueError(msg)
        return stored.check(load_encoder(replace(known, convert=None) if modified else known, weights=given))
    build = info.build
    if modified and info.architecture is not None:
        build = _own_weights(info, folder, checks)
    elif known is not None and not modified:
        build = _published_weights(known, stored)
    return LoadedEncoder.of(info, build, sha256=sha256, modified=modified)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What a configuration lists of the tile encoder that the model was trained with."""

    name: str
    dim: int
    sha256: str | None
    modified: bool

    def check(self, given: EncoderInfo) -> LoadedEncoder:
        """The given encoder, if the model was trained with it.

        Raises
        ------
        ValueError
            If it is another one.
        """
        if given.dim != self.dim or self.sha256 not in (None, given.sha256):
            msg = (
                f"the model was trained with the tile encoder {self.name!r} of {self.dim} numbers and sha256 "
                f"{str(self.sha256)[:12]}…, but {given.name!r} has {given.dim} and {str(given.sha256)[:12]}…; give the "
                "weights that it was trained with"
            )
            raise ValueError(msg)
        return LoadedEncoder.of(given, given.build, sha256=given.sha256, modified=self.modified)


def _described(facts: Fields) -> EncoderInfo:
    """Description of an encoder that is not registered, whose network therefore cannot be built."""
    name = facts.text("name")

    def build() -> nn.Module:
        msg = (
            f"the model was trained with the tile encoder {name!r}, whose network storm does not know; load the model "
            "with tile_encoder=storm.encoders.wrap_encoder(module, …)"
        )
        raise FileNotFoundError(msg)

    return EncoderInfo(
        name=name,
        dim=facts.whole("dim"),
        tile_px=facts.whole("tile_px"),
        field_um=_positive(facts, "field_um"),
        mean=_channels(facts, "mean"),
        std=_channels(facts, "std"),
        licence=facts.text("licence"),
        gated=facts.flag("gated"),
        build=build,
        maker=facts.optional_text("maker") or "",
        patch_px=None if facts.raw("patch_px") is None else facts.whole("patch_px"),
        any_size=facts.flag("any_size"),
        native_um_per_px=None if facts.raw("native_um_per_px") is None else _positive(facts, "native_um_per_px"),
        page=facts.optional_text("page"),
        hub_id=facts.optional_text("hub_id"),
        citation=facts.optional_text("citation"),
    )


def _positive(facts: Fields, name: str) -> float:
    if facts.number(name) <= 0:
        facts.refuse(name, "a number above 0")
    return facts.number(name)


def _channels(facts: Fields, name: str) -> Channels | None:
    if facts.raw(name) is None:
        return None
    values = facts.numbers(name)
    finite = all(math.isfinite(value) and (name == "mean" or value > 0) for value in values)
    if len(values) != 3 or not finite:
        facts.refuse(name, "null or three finite numbers" + (" above 0" if name == "std" else ""))
    red, green, blue = values
    return red, green, blue


def _own_weights(info: EncoderInfo, folder: Path, checks: Mapping[str, str]) -> Callable[[], nn.Module]:
    if (folder / WEIGHTS).is_file() and WEIGHTS not in checks:
        msg = f"'config.json' in {str(folder)!r} lists no sha256 of {WEIGHTS!r}; save the model again"
        raise ValueError(msg)

    def build() -> nn.Module:
        if not (folder / WEIGHTS).is_file():
            msg = (
                f"this model fine-tuned its tile encoder {info.name!r} and was handed on without these weights "
                f"(licence {info.licence}); ask its makers for {WEIGHTS!r} and load the model with tile_encoder='FILE'"
            )
            raise FileNotFoundError(msg)
        # As they are: an architecture may have whole numbers among its tensors, and build_with() checks each of them.
        state = read_weights(folder / WEIGHTS, expected=checks[WEIGHTS], real=False)
        # Saved under the names of the architecture, so there is nothing to convert.
        return build_with(replace(info, convert=None), state)

    return build


def _published_weights(info: EncoderInfo, stored: _Stored) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return stored.check(load_encoder(info)).build()

    return build
