"""Publishing a model on the Hugging Face hub, with a card, and without what may not be handed on."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from storm._loading.files import read_json, write_json, write_text
from storm._loading.folder import write_model
from storm._loading.tiles import LICENCE, WEIGHTS
from storm.encoders.hub import UNREACHABLE, hub_answers

if TYPE_CHECKING:
    from storm._loading.model import StormModel


def push(
    model: StormModel,
    repo_id: str,
    *,
    token: str | None,
    private: bool,
    include_tile_encoder: bool,
    commit_message: str,
) -> str:
    """Upload a model; see :meth:`storm.StormModel.push_to_hub`."""
    from huggingface_hub import HfApi, errors

    advice = "model.save(folder) writes the same files, which can be uploaded from elsewhere (hf upload)"
    if not hub_answers():
        msg = f"{UNREACHABLE}; {advice}"
        raise ConnectionError(msg)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(model, folder, include_tile_encoder=include_tile_encoder)
        api = HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))
        except errors.HfHubHTTPError as error:
            msg = f"the hub does not take the upload to {repo_id!r} ({str(error).splitlines()[0][:200]}); {advice}"
            raise PermissionError(msg) from error


def prepare(model: StormModel, folder: Path, *, include_tile_encoder: bool) -> None:
    """Write the files of an upload into a folder."""
    write_model(model, folder)
    if model.tile_encoder.modified and not include_tile_encoder:
        (folder / WEIGHTS).unlink()
        values = read_json(folder / "config.json")
        del values["sha256"][WEIGHTS]
        write_json(folder / "config.json", values)
    write_text(folder / "README.md", _card(model, weights=(folder / WEIGHTS).is_file()))


def _card(model: StormModel, *, weights: bool) -> str:
    """A model card that says what is in the repository and what is not."""
    info, parameters = model.tile_encoder, sum(p.numel() for p in model.network.parameters())
    tiles = f"{info.name} (licence {info.licence}{', gated' if info.gated else ''})"
    if info.modified and weights:
        tiles += f", fine-tuned: weights in `{WEIGHTS}`, licence in `{LICENCE}`"
    elif info.modified:
        tiles += ", fine-tuned: its weights are not included"
    elif info.sha256 is not None:
        tiles += ": its weights are not included, get them from their maker"
    facts = "\n".join(f"- {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in model.card.items())
    return (
        "---\nlibrary_name: storm-spatial\ntags: [spatial-transcriptomics, histology, scverse]\n---\n\n"
        f"# STORM model\n\n"
        f"- Network: {parameters:,} parameters, {model.config.depth} blocks of width {model.config.width}\n"
        f"- Tile encoder: {tiles}\n"
        f"- Expression encoder: {model.expression.name}, {model.expression.dim} numbers a spot\n"
        f"- Genes predicted by the decoder: {model.config.n_genes}; by the head: "
        f"{0 if model.head is None else len(model.head.genes)}\n"
        f"- sha256: `{model.sha256}`\n\n"
        '```python\nimport storm\n\nmodel = storm.StormModel.from_pretrained("owner/name")\n'
        "storm.tl.embed(sdata, model=model)\n```\n\n"
        f"## What its makers say\n\n{facts or 'Nothing.'}\n"
    )
