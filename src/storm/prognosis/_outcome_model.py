"""A trained outcome network with all that was learned beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from storm._bridge.cohort import check_cohort
from storm._bridge.cohort_facts import NOTES
from storm._loading.files import read_fields, read_json, write_json
from storm._logging import logger
from storm.model.outcome import Outcome, OutcomeConfig
from storm.model.weights import build_from, save_weights
from storm.prognosis._patients import named_patients
from storm.prognosis._target import LOSSES, risk_of

if TYPE_CHECKING:
    import pandas as pd

    from storm._bridge.cohort import Cohort

FORMAT = 1
_WEIGHTS, _FACTS = "outcome.safetensors", "outcome.json"


@dataclass(frozen=True, eq=False, kw_only=True)
class OutcomeModel:
    """An outcome network, its frozen cut-off, and what it was trained on.

    :func:`storm.prognosis.fit` makes it, :func:`storm.prognosis.load_model` reads it.

    Attributes
    ----------
    network
        The network; it holds the mean and spread of the training patients by which inputs are standardised.
    endpoint
        Name of the endpoint.
    loss
        ``"cox"``, ``"nll"`` or ``"bce"``.
    cutoff
        Risk above which a patient is in the high-risk group: the median of the validation patients. Never that of
        patients who are reported on.
    baseline
        How a risk becomes a probability of survival, by the validation patients: ``slope``, ``centre``, ``time`` and
        ``survival``; ``None`` where they have too few events.
    edges
        Limits of the time intervals of ``"nll"``.
    facts
        What made the features of the cohort that it was trained on.
    patients
        Names of the ``"train"`` and the ``"validation"`` patients.
    notes
        Configuration, losses, and concordance on the validation patients, beside that of the simpler networks.
    """

    network: Outcome
    endpoint: str
    loss: str
    cutoff: float
    baseline: dict[str, Any] | None
    edges: tuple[float, ...]
    facts: dict[str, Any]
    patients: dict[str, tuple[str, ...]]
    notes: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"OutcomeModel({self.network.config.network!r}, endpoint {self.endpoint!r}, loss {self.loss!r}, modalities "
            f"{self.modalities}, {len(self.patients['train'])} patients of training and "
            f"{len(self.patients['validation'])} of validation, cut-off {self.cutoff:.3g})"
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Vectors of tiles that it reads, of ``"he"`` and ``"st"``."""
        return tuple(self.network.config.dims)

    def predict(
        self,
        cohort: Cohort,
        patients: Sequence[str] | None = None,
        *,
        times: Sequence[float] = (),
        device: str = "auto",
        allow_seen: bool = False,
    ) -> pd.DataFrame:
        """Risks of patients, from all their tiles.

        Parameters
        ----------
        cohort
            A cohort whose features were made in the same way.
        patients
            Who; by default all who have a slide with features, and were not trained on.
        times
            Times at which survival is predicted, in the unit of the endpoint.
        device
            Where, as in :func:`storm.tl.embed`.
        allow_seen
            Whether patients whom the model was trained or its cut-off chosen on may be among ``patients``. Their risks
            flatter; the column ``seen`` tells them.

        Returns
        -------
        DataFrame
            Per patient ``risk`` (higher is worse; with a response: more likely), ``group`` (``"high"`` or ``"low"``, by
            the frozen cut-off), ``seen``, ``n_tiles``, and ``survival_<time>`` for each time.

        Raises
        ------
        KeyError
            If there is no such patient.
        TypeError
            If ``patients`` are no names.
        ValueError
            If the features of the cohort were made differently, patients were seen or are named twice, or survival
            cannot be predicted.
        """
        import pandas as pd

        check_cohort(cohort)
        check_same(self.facts, cohort.facts)
        known = {*self.patients["train"], *self.patients["validation"]}
        if patients is not None:
            chosen = named_patients(patients, cohort)
        else:
            chosen = _with_features(cohort) if allow_seen else self.unseen(cohort)
        seen = [name for name in chosen if name in known]
        if seen and not allow_seen:
            msg = (
                f"the model was trained on {len(seen)} of these patients ({seen[:5]}), whose risks would flatter; "
                "leave them out, or give allow_seen=True"
            )
            raise ValueError(msg)
        if not chosen:
            msg = "there is no patient that has features and was not trained on"
            raise ValueError(msg)
        if len(times) and self.baseline is None:
            msg = f"the model predicts no survival: {self.notes.get('no_baseline', 'it was trained for a response')}"
            raise ValueError(msg)
        rows = []
        place = _device(device)
        network = self.network.to(place)
        try:
            for name in chosen:
                bag = cohort.bag(name)
                outputs = run_bag(
                    network, {part: torch.from_numpy(getattr(bag, part))[None] for part in self.modalities}, name=name
                )
                risk = float(risk_of(self.loss, outputs)[0])
                row = {"patient": name, "risk": risk, "group": "high" if risk > self.cutoff else "low"}
                rows.append(row | {"seen": name in known, "n_tiles": len(bag)})
        finally:
            self.network.to("cpu")
        table = pd.DataFrame(rows).set_index("patient")
        for moment in times:
            table[f"survival_{moment:g}"] = self._survival(table["risk"].to_numpy(), float(moment))
        return table

    def unseen(self, cohort: Cohort) -> list[str]:
        """Names of the patients who have a slide with features and whom the model was not trained on.

        Those who are left out are counted in the log: patients of another cohort may have the same names.
        """
        known = {*self.patients["train"], *self.patients["validation"]}
        there = _with_features(cohort)
        others = [name for name in there if name not in known]
        if len(others) < len(there):
            logger.warning("%d of %d patients are left out: trained on", len(there) - len(others), len(there))
        return others

    def _survival(self, risk: np.ndarray, moment: float) -> np.ndarray:
        base = self.baseline
        assert base is not None
        time = np.array(base["time"])
        if moment > time[-1]:
            return np.full(len(risk), np.nan)
        at = int(np.searchsorted(time, moment, side="right")) - 1
        survival = base["survival"][at] if at >= 0 else 1.0
        return survival ** np.exp(base["slope"] * (risk - base["centre"]))

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder (safetensors and json).

        Parameters
        ----------
        folder
            Folder; made if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        checksum = save_weights(self.network, folder / _WEIGHTS)
        values = {
            "format": FORMAT,
            "network": self.network.config.to_dict(),
            "endpoint": self.endpoint,
            "loss": self.loss,
            "cutoff": self.cutoff,
            "baseline": self.baseline,
            "edges": list(self.edges),
            "facts": self.facts,
            "patients": {name: list(who) for name, who in self.patients.items()},
            "notes": self.notes,
            "sha256": checksum,
        }
        write_json(folder / _FACTS, values)


def load_model(folder: str | Path) -> OutcomeModel:
    """Read a model that :meth:`OutcomeModel.save` wrote.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    OutcomeModel

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    ValueError
        If a file is damaged, does not match its checksum, or has another format.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> config = storm.prognosis.OutcomeFit(epochs=2)
    >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=config)
    >>> model.save("model")
    >>> storm.prognosis.load_model("model").endpoint
    'DSS'
    """
    folder = Path(folder)
    fields, values = read_fields(folder / _FACTS), read_json(folder / _FACTS)
    if values.get("format") != FORMAT:
        msg = f"the model in {str(folder)!r} has format {values.get('format')!r}, this version reads {FORMAT}"
        raise ValueError(msg)
    try:
        config = OutcomeConfig.from_dict(values["network"])
        model = {
            "endpoint": str(values["endpoint"]),
            "loss": values["loss"],
            "cutoff": float(values["cutoff"]),
            "baseline": values["baseline"],
            "edges": tuple(float(edge) for edge in values["edges"]),
            "facts": dict(values["facts"]),
            "patients": {name: tuple(map(str, values["patients"][name])) for name in ("train", "validation")},
            "notes": dict(values["notes"]),
        }
        right = values["loss"] in LOSSES and np.isfinite(model["cutoff"])
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{_FACTS!r} in {str(folder)!r} is damaged ({error}); copy the model's folder again"
        raise ValueError(msg) from error
    if not right:
        msg = f"{_FACTS!r} in {str(folder)!r} has loss {values['loss']!r} and cut-off {values['cutoff']!r}"
        raise ValueError(msg)
    sizes = {"width": config.width, "n_latents": config.n_latents, **config.dims}
    network = build_from(
        lambda: Outcome(config), folder / _WEIGHTS, expected=fields.sha256("sha256"),
        sizes=sizes if config.network == "perceiver" else {name: sizes[name] for name in ("width", *config.dims)},
    )  # fmt: skip
    return OutcomeModel(network=network, **model)


def check_same(trained: dict[str, Any], cohort: dict[str, Any]) -> None:
    """Raise unless the features of two cohorts were made in the same way: by the same facts, whatever they are.

    Raises
    ------
    ValueError
        Names what differs.
    """
    differ = [name for name in {**trained, **cohort} if name not in NOTES and trained.get(name) != cohort.get(name)]
    if differ:
        listed = "; ".join(f"{name}: {_short(trained.get(name))} and {_short(cohort.get(name))}" for name in differ)
        msg = f"the features of this cohort were made differently from those the model was trained on ({listed})"
        raise ValueError(msg)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > 3:
        return f"{len(value)} of them, {', '.join(map(str, value[:3]))} …"
    return repr(value)


def _with_features(cohort: Cohort) -> list[str]:
    ready = set(cohort.slides.loc[cohort.slides["status"] == "done", "patient"])
    return [name for name in cohort.patients.index if name in ready]


def run_bag(network: Outcome, bag: dict[str, torch.Tensor], *, name: str) -> torch.Tensor:
    """Outputs (1, k) of a whole bag; on the CPU, which is said, where the device has no memory for it."""
    mask = torch.ones(bag[next(iter(bag))].shape[:2], dtype=torch.bool)
    place = next(network.parameters()).device
    with torch.no_grad():
        try:
            outputs = network({part: values.to(place) for part, values in bag.items()}, mask.to(place)).cpu()
        except torch.OutOfMemoryError:
            logger.warning("%s has %d tiles, too many for %s: it is computed on the CPU", name, mask.shape[1], place)
            torch.cuda.empty_cache()
            outputs = network.to("cpu")(bag, mask)
            network.to(place)
    return outputs


def _device(device: str) -> torch.device:
    from storm._inference.device import Compute

    return Compute.of(device).devices[0]
