"""The model card of a published model."""

from __future__ import annotations

import json

from storm._loading.parts import ModelParts
from storm._loading.tiles import LICENCE, WEIGHTS


def model_card(parts: ModelParts, *, has_tile_weights: bool) -> str:
    """Text that lists what is in a published folder and what is not.

    Parameters
    ----------
    parts
        The model.
    has_tile_weights
        Whether the folder holds the tile encoder's weights.

    Returns
    -------
    str
        Markdown, with the hub's metadata on top.
    """
    info, parameters = parts.tile_encoder, sum(p.numel() for p in parts.network.parameters())
    tiles = f"{info.name} (licence {info.licence}{', gated' if info.gated else ''})"
    if info.modified and has_tile_weights:
        tiles += f", fine-tuned: weights in `{WEIGHTS}`, licence in `{LICENCE}`"
    elif info.modified:
        tiles += ", fine-tuned: its weights are not included"
    elif info.sha256 is not None:
        tiles += ": its weights are not included, get them from their maker"
    facts = "\n".join(f"- {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in parts.card.items())
    return (
        "---\nlibrary_name: storm-spatial\ntags: [spatial-transcriptomics, histology, scverse]\n---\n\n"
        f"# STORM model\n\n"
        f"- Network: {parameters:,} parameters, {parts.config.depth} blocks of width {parts.config.width}\n"
        f"- Tile encoder: {tiles}\n"
        f"- Expression encoder: {parts.expression.name}, {parts.expression.dim} numbers per spot\n"
        f"- Genes predicted by the decoder: {parts.config.n_genes}; by the head: "
        f"{0 if parts.head is None else len(parts.head.genes)}\n"
        f"- sha256: `{parts.sha256}`\n\n"
        '```python\nimport storm\n\nmodel = storm.StormModel.from_pretrained("owner/name")\n'
        "storm.tl.embed(sdata, model=model)\n```\n\n"
        f"## Notes by its makers\n\n{facts or 'None.'}\n"
    )
