"""How an outcome network is built and trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from storm._checks import check_between, check_positive, check_whole


@dataclass(frozen=True, kw_only=True)
class OutcomeFit:
    """How an outcome network is built and trained. The paper states none of these; the defaults are ours.

    Attributes
    ----------
    epochs
        Passes over the patients. They are fixed: choosing the best epoch on patients who are reported on would flatter.
    lr, weight_decay
        Of AdamW; the rate falls as a cosine.
    clip
        Largest norm of a gradient.
    patients_per_batch
        Patients whose risks are compared in a step: the risk sets of Cox's likelihood.
    tiles_per_bag
        Tiles drawn from each patient in a step. All are read in inference.
    width, n_latents, depth, heads, dropout
        As :class:`storm.model.OutcomeConfig`.
    bins
        Time intervals of ``loss="nll"``, of as many events each.
    """

    epochs: int = 25
    lr: float = 1e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    patients_per_batch: int = 32
    tiles_per_bag: int = 512
    width: int = 64
    n_latents: int = 16
    depth: int = 1
    heads: int = 4
    dropout: float = 0.25
    bins: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "tiles_per_bag", "width", "n_latents", "depth", "heads"):
            check_whole(getattr(self, name), name=name)
        # A patient alone has no risk set, and a single interval no time.
        for name in ("patients_per_batch", "bins"):
            check_whole(getattr(self, name), name=name, least=2)
        for name in ("lr", "clip"):
            check_positive(getattr(self, name), name=name)
        check_between(self.weight_decay, name="weight_decay", low=0, high=1)
        check_between(self.dropout, name="dropout", low=0, high=0.95)

    def to_dict(self) -> dict[str, Any]:
        """For json."""
        return asdict(self)
