"""Any model of timm as a tile encoder, by name: ``"timm:vit_small_patch16_224"``, DINOv2 included."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from storm.encoders.info import Channels, EncoderInfo
from storm.encoders.loading import load_encoder
from storm.encoders.registry import register_family

_PREFIX = "timm:"
#: Natural images have no physical scale: tiles are read at this many µm per pixel unless the caller gives another one.
_UM_PER_PX = 0.5


@lru_cache
def describe(name: str) -> EncoderInfo:
    """Describe a model of timm from timm's own record.

    Parameters
    ----------
    name
        ``"timm:<model>"`` or ``"timm:<model>.<weights>"``.

    Returns
    -------
    EncoderInfo

    Raises
    ------
    ValueError
        If timm has no such model.
    """
    import timm

    model = name.removeprefix(_PREFIX)
    base, _, tag = model.partition(".")
    known = timm.is_model(base) and (not tag or timm.models.get_pretrained_cfg(model, allow_unregistered=False))
    if not known:
        from difflib import get_close_matches

        near = get_close_matches(model, timm.list_models(pretrained=True) + timm.list_models(), n=5)
        msg = f"timm has no model {model!r}" + (f"; did you mean one of {near}?" if near else "")
        raise ValueError(msg)
    record = timm.models.get_pretrained_cfg(model, allow_unregistered=True)
    resizes = timm.models.is_model_in_modules(base, ["vision_transformer"])
    arguments: dict[str, Any] = {"num_classes": 0} | ({"dynamic_img_size": True} if resizes else {})

    def architecture() -> nn.Module:
        return timm.create_model(model, pretrained=False, **arguments)

    # Typed as Any: which attributes a network has depends on its family.
    module: Any
    with torch.device("meta"):
        module = architecture()
    size = record.input_size if record and record.input_size else (3, 224, 224)
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    classifier = record.classifier if record else None

    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
        own = set(module.state_dict())
        return {k: v for k, v in state.items() if k in own or not k.startswith(tuple(f"{head}." for head in heads))}

    def build() -> nn.Module:
        return load_encoder(info).build()

    hub_id = (record.hf_hub_id if record else None) or None
    if record and hub_id and hub_id.endswith("/"):
        hub_id += (record.architecture or base) + (f".{record.tag}" if record.tag else "")
    info = EncoderInfo(
        name=name,
        maker="timm",
        dim=module.num_features if not hasattr(module, "head_hidden_size") else module.head_hidden_size,
        tile_px=size[-1],
        field_um=size[-1] * _UM_PER_PX,
        mean=cast("Channels", tuple(record.mean)) if record else None,
        std=cast("Channels", tuple(record.std)) if record else None,
        licence=(record.license if record else None) or "see its card",
        gated=False,
        build=build,
        pooling="own",
        patch_px=patch[0] if patch and resizes else None,
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        any_size=resizes or bool(record and not record.fixed_input_size),
        n_parameters=sum(p.numel() for p in module.parameters()),
        hub_id=hub_id,
        page=f"https://huggingface.co/{hub_id}" if hub_id else None,
        architecture=architecture,
        convert=convert,
    )
    return info


register_family(_PREFIX, describe)
