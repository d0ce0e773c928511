"""A Novae trained from scratch, as a baseline for spatial domains (``domains.py``)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import numpy as np
import scanpy as sc
import torch
from anndata import AnnData
from domain_sections import Section

from storm._bridge import read_spots
from storm.data.windows import make_windows

#: Of the network's weights and batches.
SEED = 0
#: Spots of a lattice within so many pitches are neighbours: the 8 around a spot of a square one.
REACH = 1.5
#: Novae's genes of a section, and the share of spots in which they are at least.
NOVAE_GENES, NOVAE_SEEN = 1000, 0.1
#: Distance in µm that Novae expects between neighbours: it gives its network the lengths of edges in multiples of it.
NOVAE_STEP = 20.0
#: Novae's spots per step, its epochs, and where they are cut off.
NOVAE_BATCH, NOVAE_EPOCHS, NOVAE_SECONDS = 64, 4, 480.0


def train_novae(sections: Iterable[Section]) -> tuple[object, dict[str, float]]:
    """Train a Novae from scratch.

    Novae's own defaults (10 layers, 64 outputs, two hops, 512 prototypes, Adam at 5e-4), but for these:

    - batches of 64 spots instead of 256, which would be a whole section, and 4 epochs instead of at most 20, which is
      what fits into ``NOVAE_SECONDS`` on one core (its schedule ends with the last epoch; training is cut off there
      in any case);
    - of each section the 1,000 most variable genes among those seen in a tenth of its spots. Novae scales each gene to
      unit variance, and most of the genes that scanpy calls highly variable are seen in a few spots only;
    - on a lattice, spots within 1.5 pitches are neighbours, because a Delaunay triangulation of a square lattice draws
      its diagonals at random; for cells it is Novae's triangulation. The pitch is brought to the 20 µm that Novae
      expects between neighbours.

    Parameters
    ----------
    sections
        Sections; genes of several species meet where their symbols differ in case only.

    Returns
    -------
    model : novae.Novae
        For :func:`novae_latent`.
    facts : dict
        ``"seconds"`` of all this, ``"epochs"``, ``"steps"``, ``"spots"``, ``"genes"`` of the vocabulary, and the last
        epoch's ``"loss"``.
    """
    lightning, novae = _novae()
    started = time.perf_counter()
    adatas = [_for_novae(section) for section in sections]
    lightning.seed_everything(SEED, verbose=False)
    model = novae.Novae(adatas, batch_size=NOVAE_BATCH)
    model.fit(
        max_epochs=NOVAE_EPOCHS,
        max_time={"seconds": NOVAE_SECONDS},
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    facts = {
        "seconds": round(time.perf_counter() - started, 1),
        "epochs": model.trainer.current_epoch,
        "steps": model.trainer.global_step,
        "spots": sum(adata.n_obs for adata in adatas),
        "genes": model.cell_embedder.voc_size,
        "loss": round(float(model.trainer.callback_metrics["train/loss_epoch"]), 3),
    }
    return model, facts


def novae_latent(model, section: Section) -> np.ndarray:
    """Latent of a section by a trained Novae, of unit length as its prototypes are; shape (n, 64).

    Of the section's variable genes it reads those that the training sections had among theirs. A spot without
    neighbours of neighbours has no latent in Novae: its row is zero.
    """
    adata = _for_novae(section)
    model.compute_representations(adata)
    latent = adata.obsm["novae_latent"]
    return latent / np.maximum(np.linalg.norm(latent, axis=1, keepdims=True), 1e-8)


def _for_novae(section: Section) -> AnnData:
    """A copy of the section's table as Novae wants it: logged, with its genes chosen and its graph."""
    _, novae = _novae()
    table = section.table.copy()
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    names = table.var_names.str.lower()
    table = table[:, ~names.duplicated()]
    centres = read_spots(section.data, image=False).centres
    adata = AnnData(table.X.tocsr(), obs=table.obs[[]].copy())
    adata.var_names = table.var_names.str.lower()
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    variance = np.asarray(adata.X.power(2).mean(axis=0)).ravel() - mean**2
    variance[np.asarray((adata.X > 0).mean(axis=0)).ravel() < NOVAE_SEEN] = -1.0
    chosen = np.argsort(-variance)[:NOVAE_GENES]
    adata.var["highly_variable"] = np.isin(np.arange(adata.n_vars), chosen[variance[chosen] >= 0])
    windows = make_windows(centres)
    adata.obsm["spatial"] = centres * (NOVAE_STEP / windows.pitch)
    if windows.kind == "knn":
        novae.spatial_neighbors(adata, radius=5 * NOVAE_STEP, verbose=False)
    else:
        novae.spatial_neighbors(adata, delaunay=False, radius=REACH * NOVAE_STEP, verbose=False)
    return adata


def _novae():
    """The modules lightning and novae, quiet, and told that counts come logged and genes chosen."""
    import numba

    # Novae's preprocessing starts numba, which would raise the threads of torch to its own.
    numba.set_num_threads(min(numba.get_num_threads(), torch.get_num_threads()))
    import lightning
    import novae

    novae.settings.auto_preprocessing = False
    for name in ("novae", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return lightning, novae
