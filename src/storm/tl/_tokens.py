"""Spot tokens: what the spot encoders say of each spot by itself."""

from __future__ import annotations

import numpy as np
import torch
from tqdm.auto import tqdm

from storm._loading import StormModel
from storm._settings import settings
from storm.data.genes import GeneMatch
from storm.data.normalise import standardise
from storm.data.spots import Spots
from storm.encoders import EncoderInfo
from storm.tl._run import Run

#: Standard deviations beyond which a tile feature is an artefact (a fold, a pen mark) and is clipped.
_CLIP = 6.0


def encode_tiles(
    spots: Spots,
    encoder: EncoderInfo,
    *,
    field_um: float,
    device: torch.device,
    precision: str,
    batch_size: int,
    tile_px: int | None = None,
    compiled: bool = False,
    channels_last: bool = False,
) -> np.ndarray:
    """Tile embeddings, shape (n, dim), float32; NaN where the centre lies outside the image.

    Parameters
    ----------
    spots
        With a patch reader.
    encoder
        Tile encoder.
    field_um
        Edge of the field around each centre, in µm.
    device, precision, batch_size
        How to run.
    tile_px
        Input size, the encoder's own by default.
    compiled, channels_last
        Ways to run faster, taken where the first batch shows that they say the same.

    Raises
    ------
    ValueError
        If the encoder's output has not the shape that its description says.
    """
    out = np.full((len(spots), encoder.dim), np.nan, dtype=np.float32)
    network = encoder.build().to(device).eval()
    mean = torch.tensor(encoder.mean or (0.0, 0.0, 0.0), device=device).view(1, 3, 1, 1)
    std = torch.tensor(encoder.std or (1.0, 1.0, 1.0), device=device).view(1, 3, 1, 1)
    batches = spots.patches.iter_patches(
        spots.centres, field_um=field_um, out_px=tile_px or encoder.tile_px, batch_size=batch_size
    )
    run = Run(network, device=device, precision=precision, compiled=compiled, channels_last=channels_last)
    n_inside = int(spots.patches.inside(spots.centres).sum())
    bar = tqdm(total=n_inside, desc="tiles", unit="tile", disable=settings.verbosity == 0)
    with torch.inference_mode(), bar:
        for index, patches in batches:
            x = torch.from_numpy(patches).to(device).permute(0, 3, 1, 2).float().div_(255)
            embedding = run((x - mean) / std)
            if tuple(embedding.shape) != (len(index), encoder.dim):
                found = tuple(embedding.shape)
                msg = f"tile encoder {encoder.name!r} gave shape {found} for {len(index)} tiles; dim is {encoder.dim}"
                raise ValueError(msg)
            out[index] = embedding.float().cpu().numpy()
            bar.update(len(index))
    return out


def he_tokens(raw: np.ndarray, model: StormModel) -> np.ndarray:
    """Standardised tile embeddings, shape (n, he_dim)."""
    within = model.settings["standardise"] == "section"
    scaled = standardise(raw, model.statistic("he_mean"), model.statistic("he_std"), within=within)
    return np.clip(scaled, -_CLIP, _CLIP)


def st_tokens(spots: Spots, model: StormModel) -> tuple[np.ndarray, GeneMatch]:
    """Standardised expression embeddings, shape (n, st_dim), NaN for spots without counts; and how the genes matched.

    Raises
    ------
    ValueError
        If the table shares too few genes with the expression encoder, or that reads distances and none are known.
    """
    encoder = model.expression
    if encoder.needs_centres and not spots.um_known:
        msg = (
            f"expression encoder {encoder.name!r} reads distances in µm, and no scale of the coordinates is known; "
            "give um_per_px, µm per unit of theirs"
        )
        raise ValueError(msg)
    raw = encoder.encode(spots.counts, spots.genes, centres=spots.centres)
    within = model.settings["standardise"] == "section"
    scaled = standardise(raw, model.statistic("st_mean"), model.statistic("st_std"), within=within, isotropic=True)
    return scaled, encoder.match(spots.genes)
