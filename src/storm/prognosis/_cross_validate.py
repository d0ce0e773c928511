"""``storm.prognosis.cross_validate``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from storm._bridge.cohort import check_cohort
from storm._checks import check_choice, check_frame
from storm._progress import progress
from storm.model.outcome import NETWORKS
from storm.prognosis._config import OutcomeFit
from storm.prognosis._fit import fit

if TYPE_CHECKING:
    from storm._bridge.cohort import Cohort


def cross_validate(
    cohort: Cohort,
    split: pd.DataFrame,
    *,
    endpoint: str | None = None,
    networks: Sequence[str] = NETWORKS,
    modality: Literal["both", "he", "st"] = "both",
    loss: Literal["cox", "nll", "bce"] = "cox",
    times: Sequence[float] = (),
    config: OutcomeFit | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Risks of all patients, each by a model that was trained without their fold.

    Every model has its own cut-off, from validation patients among those that it was trained on. Risks of different
    folds are on different scales: compare groups over folds, and risks within one.

    Parameters
    ----------
    cohort
        The cohort.
    split
        What :func:`storm.prognosis.split` returned: ``fold`` by patient.
    endpoint
        As in :func:`fit`; by default that of the split.
    networks
        Networks to train, each in every fold.
    modality, loss, config, device, seed
        As in :func:`fit`.
    times
        Times at which survival is predicted.
    out
        Folder for the runs, by network and fold, from which an interrupted call goes on.

    Returns
    -------
    DataFrame
        Per patient and network: ``patient``, ``network``, ``fold``, ``risk``, ``group``, ``n_tiles`` and
        ``survival_<time>``. ``attrs`` has ``endpoint``, ``modality`` and ``loss``.

    Raises
    ------
    KeyError, ValueError
        As in :func:`fit`, and if the split has no column ``fold`` or fewer than two folds.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> config = storm.prognosis.OutcomeFit(epochs=2)
    >>> folds = storm.prognosis.split(cohort, endpoint="DSS", folds=2)
    >>> table = storm.prognosis.cross_validate(cohort, folds, networks=["mean"], config=config)
    >>> table.shape[0]
    30
    """
    check_cohort(cohort)
    check_frame(split, name="split", source="what storm.prognosis.split returns; pandas.read_csv opens one")
    if "fold" not in split or split["fold"].nunique() < 2:
        msg = "split needs a column 'fold' with two folds or more; storm.prognosis.split makes it"
        raise ValueError(msg)
    for name in networks:
        check_choice(name, NETWORKS, name="networks")
    endpoint = split.attrs.get("endpoint") if endpoint is None else endpoint
    if endpoint is None:
        msg = "endpoint is missing; name it, such as endpoint='DSS'"
        raise ValueError(msg)
    tables = []
    runs = list(product(networks, sorted(split["fold"].unique())))
    for name, fold in progress(runs, desc="folds", unit="fold"):
        test = split.index[split["fold"] == fold]
        try:
            model = fit(
                cohort,
                endpoint,
                patients=list(split.index[split["fold"] != fold]),
                modality=modality,
                network=name,
                loss=loss,
                baselines=False,
                config=config,
                device=device,
                out=None if out is None else Path(out) / name / f"fold-{fold}",
                seed=seed,
            )
        except ValueError as error:
            error.args = (f"without fold {fold}: {error.args[0]}", *error.args[1:])
            raise
        # A fold whose validation patients have too few events predicts no survival.
        found = model.predict(cohort, list(test), times=times if model.baseline else (), device=device)
        tables.append(found.reset_index().assign(network=name, fold=fold))
    whole = pd.concat(tables, ignore_index=True)
    first = ["patient", "network", "fold", "risk", "group", "n_tiles"]
    whole = whole[[*first, *(column for column in whole if str(column).startswith("survival_"))]]
    whole.attrs = {"endpoint": endpoint, "modality": modality, "loss": loss}
    return whole
