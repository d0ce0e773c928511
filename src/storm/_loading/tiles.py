"""The tile encoder of a stored model: published weights by name and checksum, own weights in a file of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from storm._loading.files import write_text
from storm.encoders import EncoderInfo, get_encoder, load_encoder
from storm.encoders.loading import build_with, inner_module
from storm.model.weights import read_weights, save_weights, sha256

WEIGHTS, LICENCE = "tile_encoder.safetensors", "TILE_ENCODER_LICENCE.txt"
_FACTS = (
    "name", "maker", "dim", "tile_px", "field_um", "mean", "std", "licence", "gated", "patch_px", "any_size",
    "native_um_per_px", "page", "hub_id", "citation", "sha256", "modified",
)  # fmt: skip


def dump_tile_encoder(info: EncoderInfo, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Write what must be kept of a tile encoder; facts for the configuration, and checksums of the files."""
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
    facts: dict[str, Any], folder: Path, checks: dict[str, str], given: str | Path | EncoderInfo | None
) -> EncoderInfo:
    """The tile encoder of :func:`dump_tile_encoder`'s facts; its weights are read when it is first built.

    Parameters
    ----------
    facts, folder, checks
        Configuration, folder and checksums of the stored model.
    given
        The user's own copy of the weights, or a loaded encoder.

    Raises
    ------
    ValueError
        If ``given`` is not what the model was trained with.
    """
    name = facts["name"]
    if isinstance(given, EncoderInfo):
        return _same(given, facts)
    try:
        known = get_encoder(name)
    except ValueError:
        known = None  # a user's own, or one that this version of timm does not have
    if given is None and known is not None and known.architecture is None:
        return known  # the package's own code, without weights
    info = _described(facts) if known is None else replace(known, sha256=facts["sha256"], modified=facts["modified"])
    if given is not None:
        if known is None:
            msg = (
                f"the model was trained with the tile encoder {name!r}, whose network storm does not know; give "
                "tile_encoder=storm.encoders.wrap_encoder(module, …) instead of its weights alone"
            )
            raise ValueError(msg)
        return _same(load_encoder(replace(info, convert=None) if facts["modified"] else known, weights=given), facts)
    if facts["modified"]:
        return replace(info, build=_own(info, folder, checks))
    return info if known is None else replace(info, build=_published(known, facts))


def _same(given: EncoderInfo, facts: dict[str, Any]) -> EncoderInfo:
    if given.dim != facts["dim"] or facts["sha256"] not in (None, given.sha256):
        msg = (
            f"the model was trained with the tile encoder {facts['name']!r} of {facts['dim']} numbers and sha256 "
            f"{str(facts['sha256'])[:12]}…, but {given.name!r} has {given.dim} and {str(given.sha256)[:12]}…; give the "
            "weights that it was trained with"
        )
        raise ValueError(msg)
    return replace(given, modified=facts["modified"])


def _described(facts: dict[str, Any]) -> EncoderInfo:
    def build() -> nn.Module:
        msg = (
            f"the model was trained with the tile encoder {facts['name']!r}, whose network storm does not know; load "
            "the model with tile_encoder=storm.encoders.wrap_encoder(module, …)"
        )
        raise FileNotFoundError(msg)

    pairs = {key: tuple(facts[key]) if isinstance(facts[key], list) else facts[key] for key in _FACTS}
    return EncoderInfo(**pairs, build=build)


def _own(info: EncoderInfo, folder: Path, checks: dict[str, str]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        if not (folder / WEIGHTS).is_file():
            msg = (
                f"this model fine-tuned its tile encoder {info.name!r} and was handed on without these weights "
                f"(licence {info.licence}); ask its makers for {WEIGHTS!r} and load the model with tile_encoder='FILE'"
            )
            raise FileNotFoundError(msg)
        state = read_weights(folder / WEIGHTS, expected=checks[WEIGHTS])
        # Saved under the names of the architecture, so there is nothing to convert.
        return build_with(replace(info, convert=None), state)

    return build


def _published(info: EncoderInfo, facts: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return _same(load_encoder(info), facts).build()

    return build
