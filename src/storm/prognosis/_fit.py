"""``storm.prognosis.fit``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from storm._bridge.cohort import check_cohort
from storm._checks import check_between, check_choice, check_whole
from storm._loading.files import read_json, write_json
from storm._logging import logger, warn
from storm._progress import progress
from storm.metrics.discrimination import concordance
from storm.metrics.hazards import cox
from storm.model.outcome import NETWORKS, Outcome, OutcomeConfig
from storm.prognosis._bags import moments_of
from storm.prognosis._config import OutcomeFit
from storm.prognosis._outcome_model import OutcomeModel
from storm.prognosis._patients import named_patients
from storm.prognosis._target import LOSSES, Target
from storm.prognosis._train import Task, train

if TYPE_CHECKING:
    from storm._bridge.cohort import Cohort

#: Events that the validation patients need for a baseline survival.
_FEW_EVENTS = 5


def fit(
    cohort: Cohort,
    endpoint: str,
    *,
    patients: Sequence[str] | None = None,
    validation: float | Sequence[str] = 0.2,
    modality: Literal["both", "he", "st"] = "both",
    network: Literal["perceiver", "abmil", "mean"] = "perceiver",
    loss: Literal["cox", "nll", "bce"] = "cox",
    baselines: bool = True,
    config: OutcomeFit | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    out: str | Path | None = None,
    seed: int = 0,
) -> OutcomeModel:
    """Train an outcome network on the patients of a cohort (paper, Methods: *clinical outcome prediction*).

    A Perceiver compresses the tiles of each modality, cross-attention fuses them, attention pools them, and an MLP
    gives a risk per patient. All that is learned, the standardisation, the time intervals and the cut-off between low
    and high risk included, is from ``patients`` alone, and stored in the model. The cut-off is the median risk of the
    validation patients, on whom the network was not trained; no other is ever made.

    Attention pooling without a Perceiver (``"abmil"``) and the mean of a bag (``"mean"``) were as good on simulated
    cohorts of 200 patients. ``baselines`` trains them too, and logs their concordance on the validation patients beside
    the network's.

    Parameters
    ----------
    cohort
        The cohort.
    endpoint
        Name of the endpoint, such as ``"DSS"`` for the columns ``DSS_time`` and ``DSS_event`` of its patients; with
        ``loss="bce"`` a column of 0 and 1, such as ``"response"``.
    patients
        Whom to train on, validation included; by default all who can be used. Leave those out whom you will report on.
    validation
        Share of ``patients``, or their names, who are held out of the training and give the cut-off.
    modality
        H&E embedding and virtual expression, or one of them.
    network
        ``"perceiver"``, ``"abmil"`` or ``"mean"``.
    loss
        ``"cox"``: partial likelihood over the patients of a batch. ``"nll"``: discrete-time hazards. ``"bce"``: a
        binary response.
    baselines
        Whether the other two networks are trained too and their concordance is stored in ``notes``.
    config
        Sizes and training; ``OutcomeFit()`` by default.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``. Several processes of ``torchrun`` share each batch.
    precision
        ``"auto"`` is bfloat16 on a GPU that has it, else float32.
    out
        Folder of the run: it holds the checkpoints, from which an interrupted run goes on with the same bits, and the
        model at the end.
    seed
        Random seed.

    Returns
    -------
    OutcomeModel

    Raises
    ------
    KeyError
        If there is no such endpoint or patient.
    TypeError
        If ``patients`` are no names, or ``config`` is something else.
    ValueError
        If an option is unknown, the cohort has no such modality, too few patients are left, none of them has an event,
        or ``out`` holds another run.

    Warns
    -----
    UserWarning
        If there are fewer than ten events to train on.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> config = storm.prognosis.OutcomeFit(epochs=2)
    >>> folds = storm.prognosis.split(cohort, endpoint="DSS")
    >>> train, test = folds.index[folds["fold"] != 0], folds.index[folds["fold"] == 0]
    >>> options = {"network": "mean", "baselines": False, "config": config}
    >>> model = storm.prognosis.fit(cohort, "DSS", patients=train, **options)
    >>> bool(model.predict(cohort, test)["group"].isin(["high", "low"]).all())
    True
    """
    check_cohort(cohort)
    check_choice(modality, ("both", "he", "st"), name="modality")
    check_choice(network, NETWORKS, name="network")
    check_choice(loss, LOSSES, name="loss")
    check_choice(precision, ("auto", "fp32", "bf16"), name="precision")
    check_whole(seed, name="seed", least=0)
    config = OutcomeFit() if config is None else config
    if not isinstance(config, OutcomeFit):
        msg = f"config is a {type(config).__name__}; give storm.prognosis.OutcomeFit(epochs=…)"
        raise TypeError(msg)
    modalities = _modalities(cohort, modality)
    outcome = _outcome(cohort, endpoint, patients, loss=loss)
    held = _held_out(outcome, validation, seed=seed)
    training = outcome[~outcome.index.isin(held)]
    _check_events(training, held)
    run = {
        "endpoint": endpoint, "loss": loss, "modality": modality, "config": config.to_dict(), "seed": seed,
        "train": list(map(str, training.index)), "validation": list(map(str, held)), "facts": cohort.facts,
    }  # fmt: skip
    folder = None if out is None else _folder(Path(out), run | {"network": network})
    target = Target.of(training, loss=loss, bins=config.bins)
    moments = moments_of(cohort, list(training.index), modalities, n_tiles=max(config.tiles_per_bag, 2048), seed=seed)
    fabric = _fabric(device, precision)
    task = Task(
        cohort=cohort, patients=list(training.index), target=target, modalities=modalities, config=config, seed=seed
    )
    validated = outcome.loc[held]
    scores: dict[str, float | None] = {}
    model: OutcomeModel | None = None
    names = [network, *(other for other in NETWORKS if baselines and other != network)]
    shown = baselines and fabric.is_global_zero
    for name in progress(names, desc="networks", unit="network", shown=shown):
        trained = _network(name, cohort, task, moments)
        checkpoints = None if folder is None else folder / "checkpoints" / name
        losses = train(trained, task, fabric, checkpoints=checkpoints)
        one = OutcomeModel(
            network=trained,
            endpoint=endpoint,
            loss=loss,
            cutoff=0.0,
            baseline=None,
            edges=tuple(target.edges.tolist()),
            facts=cohort.facts,
            patients={"train": tuple(map(str, training.index)), "validation": tuple(map(str, held))},
            notes={"config": config.to_dict(), "losses": [round(value, 6) for value in losses], "seed": seed},
        )
        risk = one.predict(cohort, held, device=device, allow_seen=True)["risk"]
        scores[name] = _score(validated, risk.to_numpy(), loss)
        if model is None:
            model = _calibrated(one, validated, risk.to_numpy())
    assert model is not None
    model.notes["validation"] = {"n": len(held), "n_events": int(validated["event"].sum()), "score": scores}
    what = "AUROC" if loss == "bce" else "C"
    listed = ", ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in scores.items())
    logger.info("%s on %d validation patients, one split: %s", what, len(held), listed)
    if folder is not None and fabric.is_global_zero:
        model.save(folder)
    return model


def _modalities(cohort: Cohort, modality: str) -> tuple[str, ...]:
    wanted = ("he", "st") if modality == "both" else (modality,)
    lacking = [name for name in wanted if name not in cohort.modalities]
    if lacking:
        msg = f"modality={modality!r}: the cohort has {list(cohort.modalities)}, not {lacking}"
        raise ValueError(msg)
    return wanted


def _outcome(cohort: Cohort, endpoint: str, patients: Sequence[str] | None, *, loss: str) -> pd.DataFrame:
    """Outcome of the patients who can be used, in the order of the cohort."""
    table = response(cohort, endpoint) if loss == "bce" else cohort.endpoint(endpoint)
    if patients is None:
        return table
    wanted = pd.Index(named_patients(patients, cohort))
    left_out = wanted.difference(table.index)
    if len(left_out):
        logger.warning("%d of the patients have no %s or no slide: %s", len(left_out), endpoint, list(left_out[:5]))
    return table[table.index.isin(wanted)]


def response(cohort: Cohort, column: str) -> pd.DataFrame:
    """Response of the patients who have one and a slide with features: ``event``, bool.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it holds something other than 0 and 1.
    """
    if column not in cohort.patients:
        msg = f"there is no column {column!r} of patients; there are {list(cohort.patients)}"
        raise KeyError(msg)
    values = pd.to_numeric(cohort.patients[column], errors="coerce")
    wrong = cohort.patients.index[(cohort.patients[column].notna() & ~values.isin([0, 1])).to_numpy(dtype=bool)]
    if len(wrong):
        msg = f"{column!r} is neither 0 nor 1 for {len(wrong)} patients: {list(wrong[:5])}; 1 is a response"
        raise ValueError(msg)
    ready = set(cohort.slides.loc[cohort.slides["status"] == "done", "patient"])
    keep = (values.notna() & values.index.isin(ready)).to_numpy(dtype=bool)
    return pd.DataFrame({"event": values[keep].astype(bool)})


def _held_out(outcome: pd.DataFrame, validation: float | Sequence[str], *, seed: int) -> list[str]:
    """Names of the validation patients: as given, or a share of those with and of those without an event."""
    if not isinstance(validation, int | float):
        held = list(validation)
        unknown = [name for name in held if name not in outcome.index]
        if unknown or not held:
            msg = f"validation names {unknown[:5] or 'nobody'}, who can not be used; name some of patients"
            raise ValueError(msg)
        return held
    check_between(validation, name="validation", low=0.05, high=0.5)
    rng = np.random.default_rng(seed)
    held = []
    for event in (True, False):
        names = outcome.index[outcome["event"] == event]
        held += list(rng.permutation(np.asarray(names))[: max(round(validation * len(names)), 1)])
    return [name for name in outcome.index if name in set(held)]


def _check_events(training: pd.DataFrame, held: list[str]) -> None:
    events = int(training["event"].sum())
    if len(training) < 4 or events == 0 or (events == len(training) and "time" not in training):
        msg = (
            f"{len(training)} patients with {events} events are left to train on, beside {len(held)} for validation; a "
            "network needs some of either kind"
        )
        raise ValueError(msg)
    if events < 10:
        msg = f"there are {events} events to train on; below ten any network learns patients, not risks"
        warn(msg)


def _folder(out: Path, run: dict[str, Any]) -> Path:
    """The folder of the run, which it starts or goes on."""
    if (out / "run.json").is_file():
        earlier = read_json(out / "run.json")
        differ = sorted(name for name in run if earlier.get(name) != _plain(run[name]))
        if differ:
            msg = f"{str(out)!r} holds a run with other {differ}; give another out, or remove the folder"
            raise ValueError(msg)
        return out
    if out.is_dir() and any(out.iterdir()):
        msg = f"{str(out)!r} holds other files and no run; give another out"
        raise ValueError(msg)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", run)
    return out


def _plain(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))


def _network(name: str, cohort: Cohort, task: Task, moments: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Outcome:
    config = task.config
    sizes = {"he": cohort.he_dim, "st": len(cohort.genes)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        network = Outcome(
            OutcomeConfig(
                dims={part: sizes[part] for part in task.modalities},
                network=name,
                width=config.width,
                n_latents=config.n_latents,
                depth=config.depth,
                heads=config.heads,
                dropout=config.dropout,
                outputs=task.target.outputs,
            )
        )
    for part, (mean, std) in moments.items():
        network.standard(part).mean.copy_(mean)
        network.standard(part).std.copy_(std)
    return network


def _fabric(device: str, precision: str) -> Any:
    from storm._inference.device import Compute
    from storm.pretraining.train import launch

    place = Compute.of(device).devices[0].type
    # Several GPUs only if several processes were started: a call in a notebook stays one process.
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices
    return launch(place, devices=devices, nodes=nodes, precision=precision)


def _score(outcome: pd.DataFrame, risk: np.ndarray, loss: str) -> float | None:
    """Concordance, or AUROC of a response; ``None`` where no two patients can be compared."""
    if loss == "bce":
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(outcome["event"], risk)) if outcome["event"].nunique() == 2 else None
    try:
        return concordance(outcome["time"], outcome["event"], risk)
    except ValueError:
        return None


def _calibrated(model: OutcomeModel, outcome: pd.DataFrame, risk: np.ndarray) -> OutcomeModel:
    """The model with the cut-off and the baseline survival of the validation patients."""
    cutoff, reason, baseline = float(np.median(risk)), "", None
    if "time" not in outcome:
        reason = "it was trained for a response"
    elif outcome["event"].sum() < _FEW_EVENTS:
        reason = f"{int(outcome['event'].sum())} of {len(outcome)} validation patients have an event"
    elif np.ptp(risk) < 1e-9:
        reason = "all validation patients have the same risk"
    elif find_spec("lifelines") is None:
        reason = "lifelines was not installed: pip install 'storm-spatial[survival]'"
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = cox(outcome["time"], outcome["event"], pd.DataFrame({"risk": risk}))
        baseline = {
            "slope": float(fitted.table["coef"].iloc[0]),
            "centre": float(fitted.means.iloc[0]),
            "time": fitted.baseline.index.to_numpy(dtype=float).tolist(),
            "survival": fitted.baseline.to_numpy(dtype=float).tolist(),
        }
    notes = model.notes | ({"no_baseline": reason} if reason else {})
    return replace(model, cutoff=cutoff, baseline=baseline, notes=notes)
