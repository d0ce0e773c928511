"""``storm.prognosis.explain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from storm._bridge.cohort import check_cohort
from storm._checks import check_choice, check_whole
from storm._keys import RISK
from storm._logging import logger, warn
from storm._progress import progress
from storm.model.outcome import Outcome
from storm.prognosis._outcome_model import OutcomeModel, check_same
from storm.prognosis._target import risk_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from storm._bridge.cohort import Cohort

#: Share of the explained difference that the sum over tiles may miss before a warning.
_INCOMPLETE = 0.05


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """What raises and lowers the risk of a patient.

    Attributes
    ----------
    tiles
        Contribution of each tile to the risk, signed, float64, shape (n,): above 0 it raises the risk.
    genes
        Contribution of each gene in each tile, signed, float32, shape (n, g); ``None`` without expression.
    he
        Contribution of the H&E embedding of each tile, shape (n,); ``None`` without H&E.
    xy_um
        Centres of the tiles in µm of their slide, shape (n, 2).
    slide
        Position of each tile's slide in ``slides``, shape (n,).
    slides
        Names of the slides.
    tile_um
        Distance of neighbouring tiles in µm.
    gene_names
        Names of the genes.
    risk, reference
        Risk of the patient and of a bag of the same size that holds nothing but the reference.
    error
        How far the contributions are from adding up to ``risk - reference``, as a share of it.
    patient
        Name of the patient.
    files
        Names of the slides' files, each ``""`` where the features were not made from one.
    field_um
        Edge of a tile's field in µm, where the cohort says it.
    """

    tiles: np.ndarray
    genes: np.ndarray | None
    he: np.ndarray | None
    xy_um: np.ndarray
    slide: np.ndarray
    slides: tuple[str, ...]
    tile_um: float
    gene_names: tuple[str, ...]
    risk: float
    reference: float
    error: float
    patient: str = ""
    files: tuple[str, ...] = ()
    field_um: float | None = None

    def __repr__(self) -> str:
        return (
            f"Explanation({len(self.tiles)} tiles of {list(self.slides)}, {len(self.gene_names)} genes, risk "
            f"{self.risk:.3g}, of the reference {self.reference:.3g}, completeness error {self.error:.1e})"
        )

    @property
    def gene_totals(self) -> pd.Series:
        """Contribution of each gene over all tiles, signed, the largest first; empty without expression."""
        import pandas as pd

        if self.genes is None:
            return pd.Series(dtype=float)
        totals = pd.Series(self.genes.sum(axis=0, dtype=np.float64), index=list(self.gene_names))
        return totals.sort_values(ascending=False, kind="stable")

    def to_anndata(self) -> AnnData:
        """Tiles × genes: ``X`` the contributions of the genes, ``obs["storm_risk"]`` those of the tiles, places in µm.

        ``sq.pl.spatial_scatter(adata, color="storm_risk", shape=None)`` draws it;
        :func:`storm.prognosis.write_explanation` writes the same to the tiles of the slide itself.
        """
        import pandas as pd
        from anndata import AnnData

        n = len(self.tiles)
        values = np.zeros((n, 0), dtype=np.float32) if self.genes is None else self.genes
        names = pd.Categorical([self.slides[k] for k in self.slide], categories=list(self.slides))
        obs = pd.DataFrame({RISK: self.tiles, "slide": names}, index=[f"tile{k}" for k in range(n)])
        if self.he is not None:
            obs[f"{RISK}_he"] = self.he
        var = pd.DataFrame(index=list(self.gene_names) if self.genes is not None else [])
        return AnnData(values, obs=obs, var=var, obsm={"spatial": np.asarray(self.xy_um, dtype=float)})


def explain(
    model: OutcomeModel,
    cohort: Cohort,
    patient: str,
    *,
    reference: Literal["mean", "zero"] = "mean",
    steps: int = 32,
    device: str = "auto",
) -> Explanation:
    """Signed contributions of tiles and genes to the risk of a patient, by integrated gradients.

    Gradients are integrated along the line from a reference to the patient's tiles, so that contributions add up to the
    difference of both risks. They have a sign: ranking tiles by their size would mix protective with harmful ones. The
    contribution of a tile falls with the number of tiles: compare tiles of one patient, not of several.

    Parameters
    ----------
    model
        The model.
    cohort
        The cohort of the patient.
    patient
        Who.
    reference
        ``"mean"``: every tile is the mean tile of the training patients; ``"zero"``: every value is zero, as in the
        paper.
    steps
        Points of the line at which gradients are taken (Gauss–Legendre).
    device
        Where, as in :func:`storm.tl.embed`. A bag that a GPU has no memory for is explained on the CPU, with a line in
        the log.

    Returns
    -------
    Explanation

    Raises
    ------
    KeyError
        If there is no such patient.
    TypeError
        If ``model`` or ``cohort`` is none.
    ValueError
        If the features of the cohort were made differently from those that the model was trained on.

    Warns
    -----
    UserWarning
        If contributions miss more than 5 % of the difference; then take more steps.

    References
    ----------
    Sundararajan, Taly & Yan, Proceedings of Machine Learning Research 70, 3319 (2017); paper, Methods:
    *interpretation*.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> config = storm.prognosis.OutcomeFit(epochs=2)
    >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=config)
    >>> explanation = storm.prognosis.explain(model, cohort, "P0001")
    >>> float(round(explanation.tiles.sum() + explanation.reference - explanation.risk, 2)) + 0.0
    0.0
    """
    check_choice(reference, ("mean", "zero"), name="reference")
    check_whole(steps, name="steps", least=2)
    check_cohort(cohort)
    if not isinstance(model, OutcomeModel):
        msg = f"model is a {type(model).__name__}; give what storm.prognosis.fit or load_model returned"
        raise TypeError(msg)
    check_same(model.facts, cohort.facts)
    bag = cohort.bag(patient)
    from storm._inference.device import Compute

    place = Compute.of(device).devices[0]
    inputs = {name: torch.from_numpy(getattr(bag, name)) for name in model.modalities}
    starts = {name: _reference(model.network, name, values, reference) for name, values in inputs.items()}
    # An unknown value is the mean, whatever the reference: nothing is attributed to it.
    inputs = {name: torch.where(torch.isnan(values), starts[name], values) for name, values in inputs.items()}
    try:
        gradients, risk, start = _attributed(model, starts, inputs, place, steps=steps)
    except torch.OutOfMemoryError:
        logger.warning("%s has %d tiles, too many for %s: it is explained on the CPU", patient, len(bag), place)
        torch.cuda.empty_cache()
        gradients, risk, start = _attributed(model, starts, inputs, torch.device("cpu"), steps=steps)
    parts = {name: (gradients[name] * (inputs[name] - starts[name]).double()).numpy() for name in inputs}
    tiles = np.sum([values.sum(axis=1) for values in parts.values()], axis=0)
    missed = abs(tiles.sum() - (risk - start)) / max(abs(risk - start), 1e-6)
    if missed > _INCOMPLETE:
        msg = f"contributions miss {missed:.0%} of the difference in risk; take more steps than {steps}"
        warn(msg)
    logger.info("%s: risk %.3f, reference %.3f, error %.1e", patient, risk, start, missed)
    return Explanation(
        tiles=tiles,
        genes=parts["st"].astype(np.float32) if "st" in parts else None,
        he=parts["he"].sum(axis=1) if "he" in parts else None,
        xy_um=bag.xy_um,
        slide=bag.slide,
        slides=bag.slides,
        tile_um=float(cohort.facts.get("stride_um") or _spacing(bag.xy_um, bag.slide)),
        gene_names=cohort.genes,
        risk=risk,
        reference=start,
        error=float(missed),
        patient=patient,
        files=tuple(str(cohort.features(slide).attrs.get("file", "")) for slide in bag.slides),
        field_um=cohort.facts.get("field_um"),
    )


def check_explanations(explanations: Mapping[str, Explanation]) -> None:
    """Raise unless there is a dictionary of explanations, by patient."""
    if not isinstance(explanations, Mapping):
        msg = f"explanations is a {type(explanations).__name__}; give a dictionary of what explain returned, by patient"
        raise TypeError(msg)
    for patient, one in explanations.items():
        if not isinstance(one, Explanation):
            msg = f"explanations[{patient!r}] is a {type(one).__name__}; give what storm.prognosis.explain returned"
            raise TypeError(msg)


def expression_of(cohort: Cohort, patient: str, explanation: Explanation) -> np.ndarray:
    """Virtual expression of the tiles that were explained, shape (n, g).

    Raises
    ------
    ValueError
        If the cohort has other tiles of the patient, or no expression.
    """
    bag = cohort.bag(patient)
    if bag.st is None:
        msg = "the cohort has no virtual expression"
        raise ValueError(msg)
    if not np.array_equal(bag.xy_um, explanation.xy_um):
        msg = (
            f"the explanation of {patient!r} is of {len(explanation.xy_um)} tiles, and those of the cohort, "
            f"{len(bag.xy_um)}, are not the same; explain the patients of this cohort"
        )
        raise ValueError(msg)
    return bag.st


def _attributed(
    model: OutcomeModel, starts: dict[str, Tensor], ends: dict[str, Tensor], place: torch.device, *, steps: int
) -> tuple[dict[str, Tensor], float, float]:
    """Mean gradients along the line, and the risks at its end and its start; the network is on the CPU afterwards."""
    network = model.network.to(place)
    try:
        gradients = _integrate(network, model.loss, starts, ends, steps=steps)
        return gradients, _risk(network, model.loss, ends), _risk(network, model.loss, starts)
    finally:
        model.network.to("cpu")


def _spacing(xy_um: np.ndarray, slide: np.ndarray) -> float:
    """Median distance of a tile to the nearest one of its slide; NaN if every slide has one tile."""
    from scipy.spatial import cKDTree

    nearest = []
    for k in np.unique(slide):
        own = xy_um[slide == k]
        if len(own) > 1:
            nearest.append(cKDTree(own).query(own, k=2)[0][:, 1])
    return float(np.median(np.concatenate(nearest))) if nearest else np.nan


def _reference(network: Outcome, name: str, values: Tensor, reference: str) -> Tensor:
    mean = network.standard(name).mean.cpu()
    return (mean if reference == "mean" else torch.zeros_like(mean)).expand_as(values).clone()


def _integrate(
    network: Outcome, loss: str, starts: dict[str, Tensor], ends: dict[str, Tensor], *, steps: int
) -> dict[str, Tensor]:
    """Mean gradient of the risk along the line from the starts to the ends, float64, one point at a time."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    place = next(network.parameters()).device
    mask = torch.ones(1, len(next(iter(ends.values()))), dtype=torch.bool, device=place)
    total = {name: torch.zeros(values.shape, dtype=torch.float64) for name, values in ends.items()}
    points = list(zip((nodes + 1) / 2, weights / 2, strict=True))
    for node, weight in progress(points, desc="gradients", unit="point"):
        at = {
            name: (starts[name] + float(node) * (ends[name] - starts[name])).to(place)[None].requires_grad_()
            for name in ends
        }
        risk = risk_of(loss, network(at, mask)).sum()
        for name, gradient in zip(at, torch.autograd.grad(risk, list(at.values())), strict=True):
            total[name] += float(weight) * gradient[0].double().cpu()
    return total


def _risk(network: Outcome, loss: str, bag: dict[str, Tensor]) -> float:
    place = next(network.parameters()).device
    mask = torch.ones(1, len(next(iter(bag.values()))), dtype=torch.bool, device=place)
    with torch.no_grad():
        return float(risk_of(loss, network({name: values.to(place)[None] for name, values in bag.items()}, mask))[0])
