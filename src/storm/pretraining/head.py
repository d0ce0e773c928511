"""An expression head on frozen features: recipe and training (paper, Methods: *predicting Visium ST from H&E*)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix

from storm._checks import check_between, check_positive, check_whole
from storm._progress import progress
from storm.data.normalise import row_blocks
from storm.data.rows import large_empty
from storm.model.heads import ExpressionMLP, expression_loss
from storm.pretraining.config_groups import check_lr
from storm.pretraining.divergence import check_losses, check_weights
from storm.pretraining.ridge import RidgePath


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Recipe of an expression head, for :func:`storm.tl.fit_expression`.

    Parameters
    ----------
    penalty
        Penalty on the squared weights of the linear part, per spot, on standardised features: the head begins as the
        ridge regression with this penalty. ``None`` chooses it by spots that are held out; see
        :func:`storm.tl.fit_expression`.
    scale
        Factor on the weights of the linear part. ``None`` takes the one that suits held-out patients best, with the
        penalty, where there are several, and 1 otherwise: a strong penalty, which a new patient needs for the direction
        of the weights, makes them smaller than they should be.
    epochs
        Passes of gradient training of the whole head from there, 10 in the paper; 0 keeps the linear part alone.
        ``None`` trains for 10 if that predicts held-out spots better by more than ``keep`` allows, else for 0.
    keep
        Share of the variance explained in held-out spots by the best head that a simpler one must explain to be
        preferred (stronger penalty, no gradient training); 1 chooses the best. ``None`` is 1 where patients are held
        out, and 0.7 where sections, or parts of one, are: these are more like the training spots than another
        patient's will be, so the head that is best on them is bolder than it should be. On two patients of her2st,
        median r from patient C's five sections to patient B's is 0.23 with 1 and 0.31 with 0.7 (the other way round
        0.07 and 0.08), and on a sixth section of the same patient 0.29 and 0.27. The 0.7 was chosen by that, on the
        same pair of patients; for sections of a patient who was trained on, use 1.
    lr
        Learning rate of AdamW at the start of its cosine, at most 1; 5e-4 in the paper.
    weight_decay
        AdamW's weight decay; ours.
    batch_size
        Spots per step; ours.
    hidden
        Width of the head's hidden layer; ours.
    dropout
        Dropout of the features and of the hidden layer; ours.
    l1, l2
        λ1 and λ2 of eq. 4; the paper does not state them.
    seed
        Random seed of initialisation, order and dropout.

    Raises
    ------
    ValueError
        If a value is out of its range.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *predicting Visium ST from H&E*, eq. 4.
    """

    penalty: float | None = None
    scale: float | None = None
    epochs: int | None = None
    keep: float | None = None
    lr: float = 5e-4
    weight_decay: float = 0.05
    batch_size: int = 64
    hidden: int = 64
    dropout: float = 0.8
    l1: float = 1.0
    l2: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.penalty is not None:
            check_positive(self.penalty, name="penalty")
        if self.scale is not None:
            check_positive(self.scale, name="scale")
        if self.epochs is not None:
            check_whole(self.epochs, name="epochs", least=0)
        for name in ("batch_size", "hidden"):
            check_whole(getattr(self, name), name=name)
        check_whole(self.seed, name="seed", least=0)
        check_lr(self.lr)
        if self.keep is not None and check_between(self.keep, name="keep", low=0, high=1) == 0:
            msg = f"keep={self.keep!r} must be above 0 and at most 1"
            raise ValueError(msg)
        if check_between(self.dropout, name="dropout", low=0, high=1) == 1:
            msg = f"dropout={self.dropout!r} must be at least 0 and below 1"
            raise ValueError(msg)
        for name in ("weight_decay", "l1", "l2"):
            check_between(getattr(self, name), name=name, low=0, high=float("inf"))
        if self.l1 + self.l2 == 0:
            msg = f"l1={self.l1} and l2={self.l2} leave no loss; set one of them above 0"
            raise ValueError(msg)


def fit_head(features: np.ndarray, expression: np.ndarray | csr_matrix, config: HeadConfig) -> ExpressionMLP:
    """Train a head.

    Parameters
    ----------
    features
        Shape (n, f), finite.
    expression
        log1p-normalised expression, shape (n, g); of a sparse one only a batch at a time is made dense.
    config
        Recipe, with its ``penalty`` and ``epochs`` chosen; see :func:`~storm.pretraining.head_choice.choose_head`.

    Returns
    -------
    ExpressionMLP
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If penalty or epochs are still open, or a loss or a weight becomes infinite or NaN.
    """
    y = csr_matrix(expression)
    return train_head(RidgePath.fit(features, y), features, y, config)


def train_head(path: RidgePath, features: np.ndarray, expression: csr_matrix, config: HeadConfig) -> ExpressionMLP:
    """Train a head from a ridge path over the same spots; see :func:`fit_head`."""
    if config.penalty is None or config.epochs is None:
        msg = f"penalty={config.penalty} and epochs={config.epochs} must be numbers here; choose_head finds them"
        raise ValueError(msg)
    x = torch.from_numpy(np.asarray(features, dtype=np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = ExpressionMLP(x.shape[1], expression.shape[1], hidden=config.hidden, dropout=config.dropout)
        with torch.no_grad():
            for tensor, values in (
                (head.mean, path.mean),
                (head.std, path.std),
                (head.offset, path.offset),
                (head.linear.weight, (config.scale or 1.0) * path.weights(config.penalty).T),
            ):
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)))
        optimiser = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        steps = config.epochs * -(-len(x) // config.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(steps, 1))
        head.train()
        for epoch in progress(range(config.epochs), desc="epochs of the head", unit="epoch", shown=config.epochs > 0):
            for rows in torch.randperm(len(x)).split(config.batch_size):
                y = torch.from_numpy(expression[rows.numpy()].toarray().astype(np.float32, copy=False))
                loss = expression_loss(head(x[rows]), y, l1=config.l1, l2=config.l2)
                check_losses({"the head": loss.item()}, lr=config.lr, when=f"in epoch {epoch}")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
        check_weights(head, lr=config.lr, when="at the end of the head's training")
    return head.requires_grad_(False).eval()


def apply_head(head: ExpressionMLP, features: np.ndarray) -> np.ndarray:
    """Predict expression with a head.

    Parameters
    ----------
    head
        The head.
    features
        Shape (n, f).

    Returns
    -------
    ndarray
        log1p-normalised expression, float32, shape (n, n_genes), in a scratch file where it is large; a row of features
        with a NaN gives a row of NaN.
    """
    out = large_empty((len(features), head.linear.out_features))
    with torch.inference_mode():
        for rows in row_blocks((len(features), max(features.shape[1], out.shape[1]))):
            out[rows] = head(torch.from_numpy(np.ascontiguousarray(features[rows]))).numpy()
    return out
