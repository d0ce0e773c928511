"""The ``novae`` package's own models: built with random weights, checked, or found on this machine or the hub."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storm._checks import check_whole
from storm.data.genes import Vocabulary
from storm.encoders.hub import UNREACHABLE, cache_dir, hub_answers

#: Novae's hyper-parameters that determine the shape of its tensors, or which cells a graph holds.
SHAPE = (
    "embedding_size",
    "hidden_size",
    "num_layers",
    "output_size",
    "heads",
    "histo_embedding_size",
    "n_hops_local",
)
#: Most hops of a local graph; Novae's default is 2, and a graph of twenty hops would hold most of a section.
_MAX_HOPS = 20


def check_shape(shape: Any, vocabulary: Vocabulary, state: Mapping[str, Tensor]) -> None:
    """Raise unless stored hyper-parameters are those of the stored tensors: Novae would allocate any size.

    Raises
    ------
    KeyError
        If a tensor or a hyper-parameter is missing.
    ValueError
        Names the hyper-parameters.
    """
    if not isinstance(shape, dict) or sorted(shape) != sorted(SHAPE):
        msg = f"shape={shape!r} must have the fields {', '.join(SHAPE)}"
        raise ValueError(msg)
    layers = 0
    while f"encoder.gnn.convs.{layers}.att" in state:
        layers += 1
    _, heads, width = state[f"encoder.gnn.convs.{layers - 1}.att"].shape
    n_genes, embedding_size = state["cells.embedding.weight"].shape
    stored = {
        "num_layers": layers,
        "heads": heads,
        "output_size": width,
        "embedding_size": embedding_size,
        "histo_embedding_size": state["encoder.mlp_fusion.0.weight"].shape[0] - width,
        # A network of one layer has no hidden one.
        "hidden_size": shape["hidden_size"] if layers == 1 else len(state["encoder.gnn.convs.0.bias"]),
    }
    wrong = {key: shape[key] for key, size in stored.items() if type(shape[key]) is not int or shape[key] != size}
    if wrong:
        msg = (
            f"Novae's hyper-parameters {wrong} are not those of its tensors, { ({key: stored[key] for key in wrong}) }"
        )
        raise ValueError(msg)
    if n_genes != len(vocabulary):
        msg = f"Novae's tensors are of {n_genes} genes, and the list of genes has {len(vocabulary)}"
        raise ValueError(msg)
    if check_whole(shape["n_hops_local"], name="n_hops_local") > _MAX_HOPS:
        msg = f"n_hops_local={shape['n_hops_local']} is more than {_MAX_HOPS}"
        raise ValueError(msg)


def random_novae(genes: Sequence[str] | np.ndarray, **shape: Any) -> Any:
    """An untrained ``novae.Novae`` over some genes; torch's random numbers are left alone.

    Parameters
    ----------
    genes
        Vocabulary, in upper or lower case.
    **shape
        Hyper-parameters of Novae.

    Returns
    -------
    novae.Novae
        For :class:`NovaeEncoder`.
    """
    from novae import Novae

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torch and lightning warn about their own code while Novae is built
        return Novae(var_names=list(dict.fromkeys(gene.lower() for gene in genes)), **shape)


def pretrained_novae(source: str | Path, *, download: bool) -> Any:
    """A trained ``novae.Novae`` from a folder, or by its name on the hub; see :func:`storm.expression.load_novae`.

    Raises
    ------
    FileNotFoundError
        If it is not on this machine; the text tells how to get it.
    ConnectionError
        If the hub cannot be reached.
    ValueError
        If ``source`` is neither a folder nor the name of a Novae on the hub.
    """
    from novae import Novae

    text = str(source)
    folder = Path(source).expanduser()
    advice = "give a folder that novae.Novae.save_pretrained wrote, or 'prism-oncology/novae-human-0'"
    on_hub = not folder.is_dir()
    if not on_hub:
        if not (folder / "config.json").is_file():
            msg = f"{text!r} holds no config.json; {advice}"
            raise FileNotFoundError(msg)
        text = str(folder)
    elif not text.startswith(("prism-oncology/", "MICS-Lab/")):
        msg = f"{text!r} is neither a folder nor the name of a Novae on the hub; {advice}"
        raise ValueError(msg)
    ways = (
        f"Either (1) load_novae({text!r}, download=True); or (2) download it elsewhere (hf download {text} --local-dir "
        "FOLDER) and give the folder; or (3) set HF_HOME to a cache that holds it, which works offline"
    )
    if on_hub and download and not hub_answers():
        msg = f"{text!r}: {UNREACHABLE}. {ways}"
        raise ConnectionError(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and lightning warn about their own code while Novae is built
        try:
            if on_hub:
                model = Novae.from_pretrained(text, cache_dir=cache_dir(), local_files_only=not download)
            else:
                model = Novae.from_pretrained(text)
        # Without its config.json, older versions of the hub's mixin call Novae without arguments, which it refuses.
        except (OSError, TypeError, AssertionError) as error:
            msg = f"{text!r} is not in {cache_dir()} or cannot be loaded ({type(error).__name__}). {ways}"
            raise FileNotFoundError(msg) from error
    return model
