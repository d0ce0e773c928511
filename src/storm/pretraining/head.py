"""An expression head on frozen features: recipe and training (paper, Methods: *predicting Visium ST from H&E*)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from storm._checks import check_positive
from storm.data.normalise import row_blocks
from storm.model.heads import ExpressionMLP, expression_loss
from storm.pretraining.ridge import RidgePath


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Recipe of an expression head, for :func:`storm.tl.fit_expression`.

    Parameters
    ----------
    penalty
        Of squared weights of the linear part, per spot, on standardised features: the head begins as the ridge
        regression with it. ``None`` chooses it by spots that are held out; see
        :func:`storm.tl.fit_expression`.
    epochs
        Passes of gradient training of the whole head from there, 10 in the paper; 0 leaves the linear part alone.
        ``None`` takes 10 if that predicts held-out spots better by more than ``keep`` allows, else 0.
    keep
        Share of the variance explained in held-out spots by the best head that a simpler one must explain to be
        preferred (stronger penalty, no gradient training). Spots that are held out are mostly more like the training
        spots than another patient's will be, so the best on them is bolder than it should be; 1 takes the best. On
        two patients of her2st, median r from patient C's five sections to patient B's was 0.24 with 1, 0.27 with 0.8
        and 0.29 with 0.7 (the other way round 0.060, 0.067 and 0.067): the default was chosen by that.
    lr, weight_decay
        AdamW with a cosine; 5e-4 in the paper. The weight decay is ours.
    batch_size, hidden, dropout
        Spots per step, width of the head's hidden layer, dropout of the features and of that layer; ours.
    l1, l2
        λ1 and λ2 of eq. 4; the paper does not state them.
    seed
        Of initialisation, order and dropout.

    Raises
    ------
    ValueError
        If a value is out of its range.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *predicting Visium ST from H&E*, eq. 4.
    """

    penalty: float | None = None
    epochs: int | None = None
    keep: float = 0.7
    lr: float = 5e-4
    weight_decay: float = 0.05
    batch_size: int = 64
    hidden: int = 64
    dropout: float = 0.8
    l1: float = 1.0
    l2: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"epochs": 0, "batch_size": 1, "hidden": 1}.items():
            value = getattr(self, name)
            if value is None and name == "epochs":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                msg = f"{name}={value!r} must be a whole number of at least {least}"
                raise ValueError(msg)
        if self.penalty is not None:
            check_positive(self.penalty, name="penalty")
        if not 0 < self.keep <= 1:
            msg = f"keep={self.keep!r} must be above 0 and at most 1"
            raise ValueError(msg)
        check_positive(self.lr, name="lr")
        if not 0 <= self.dropout < 1:
            msg = f"dropout={self.dropout!r} must be at least 0 and below 1"
            raise ValueError(msg)
        if min(self.weight_decay, self.l1, self.l2) < 0:
            msg = f"weight_decay={self.weight_decay}, l1={self.l1} and l2={self.l2} must not be negative"
            raise ValueError(msg)
        if self.l1 + self.l2 == 0:
            msg = f"l1={self.l1} and l2={self.l2} leave no loss; set one of them above 0"
            raise ValueError(msg)


def fit_head(features: np.ndarray, expression: np.ndarray, config: HeadConfig) -> ExpressionMLP:
    """Train a head.

    Parameters
    ----------
    features
        Shape (n, f), finite.
    expression
        log1p-normalised expression, shape (n, g); NaN marks a gene that a section did not measure.
    config
        Recipe, with its ``penalty`` and ``epochs`` chosen; see :func:`~storm.pretraining.head_choice.choose_head`.

    Returns
    -------
    ExpressionMLP
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If penalty or epochs are still open.
    """
    if config.penalty is None or config.epochs is None:
        msg = f"penalty={config.penalty} and epochs={config.epochs} must be numbers here; choose_head finds them"
        raise ValueError(msg)
    return train_head(RidgePath.fit(features, expression), features, expression, config)


def train_head(path: RidgePath, features: np.ndarray, expression: np.ndarray, config: HeadConfig) -> ExpressionMLP:
    """The same from a ridge path over the same spots."""
    x = torch.from_numpy(np.asarray(features, dtype=np.float32))
    y = torch.from_numpy(np.asarray(expression, dtype=np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = ExpressionMLP(x.shape[1], y.shape[1], hidden=config.hidden, dropout=config.dropout)
        starts = {
            head.mean: path.mean, head.std: path.std, head.offset: path.offset,
            head.linear.weight: path.weights(config.penalty).T,
        }  # fmt: skip
        with torch.no_grad():
            for tensor, values in starts.items():
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)))
        optimiser = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        steps = config.epochs * -(-len(x) // config.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(steps, 1))
        head.train()
        for _ in range(config.epochs):
            for rows in torch.randperm(len(x)).split(config.batch_size):
                loss = expression_loss(head(x[rows]), y[rows], l1=config.l1, l2=config.l2)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
    return head.requires_grad_(False).eval()


def apply_head(head: ExpressionMLP, features: np.ndarray) -> np.ndarray:
    """Predictions of a head, shape (n, n_genes); NaN rows stay NaN."""
    out = np.empty((len(features), head.linear.out_features), dtype=np.float32)
    with torch.inference_mode():
        for rows in row_blocks((len(features), max(features.shape[1], out.shape[1]))):
            out[rows] = head(torch.from_numpy(np.ascontiguousarray(features[rows]))).numpy()
    return out
