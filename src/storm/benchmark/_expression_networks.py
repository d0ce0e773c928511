"""Networks that predict expression: on features of tiles, or trained with the network that reads the tiles."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from storm._inference.tile_input import as_input
from storm.benchmark._probes import Part, Training, pooled, scaled

#: Patches, or features, per step of prediction.
_STEP = 64
#: BLEEP: width of the shared space, training spots per step, and retrieved spots.
_SHARED, _CONTRASTED, _RETRIEVED = 256, 512, 50
#: DeepPT: hidden width, and networks that are averaged.
_HIDDEN, _BAGS = 512, 5


class _Stem(nn.Module):
    """What turns a batch of tiles into vectors: nothing for features, a backbone that is trained for patches."""

    def __init__(self, train: Sequence[Part], how: Training) -> None:
        super().__init__()
        self.module: nn.Module | None = None
        self.width = train[0].x.shape[-1]
        self.pixels = train[0].x.ndim == 4
        if self.pixels:
            assert how.backbone is not None
            self.module = copy.deepcopy(how.backbone.build()).requires_grad_(True)
            self.normalise, self.width = how.backbone.normalise, how.backbone.dim

    def forward(self, batch: Tensor) -> Tensor:
        return batch if self.module is None else self.module(self.normalise(batch))


class _Tiles:
    """Tiles of the training spots and of those to predict, as a network reads them."""

    def __init__(self, train: Sequence[Part], test: Sequence[Part], how: Training) -> None:
        self.device = how.device
        self.pixels = train[0].x.ndim == 4
        if self.pixels:
            x, y = pooled(train)
            self.x, self.new = x, [part.x for part in test]
        else:
            x, y, new = scaled(train, test)
            self.x, self.new = x.astype(np.float32), [one.astype(np.float32) for one in new]
        self.y = torch.from_numpy(np.asarray(y, dtype=np.float32)).to(self.device)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, values: np.ndarray) -> Tensor:
        if self.pixels:
            return as_input(np.ascontiguousarray(values), self.device)
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def at(self, rows: Tensor) -> Tensor:
        """Some of the training tiles."""
        return self.batch(self.x[rows.numpy()])

    def apply(self, function: Callable[[Tensor], Tensor], values: np.ndarray) -> Tensor:
        """What a function makes of tiles, some at a time."""
        with torch.no_grad():
            return torch.cat(
                [function(self.batch(values[start : start + _STEP])) for start in range(0, len(values), _STEP)]
            )


def mlp(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """A probe with one hidden layer of 512: ReLU, dropout 0.2, AdamW 1e-3 / 1e-2, batches of 256, 50 epochs (ours)."""
    with _seeded(how):
        tiles = _Tiles(train, test, how)
        network = nn.Sequential(nn.Linear(tiles.x.shape[1], 512), nn.ReLU(), nn.Dropout(0.2), _last(512, tiles.y)).to(
            how.device
        )
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)

        def loss(rows: Tensor) -> Tensor:
            return nn.functional.mse_loss(network(tiles.at(rows)), tiles.y[rows])

        _train(network, loss, _batches(len(tiles), 256, how.epochs or 50), optimiser)
        return [tiles.apply(network, new).cpu().numpy() for new in tiles.new]


def st_net(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """ST-Net: a network of images (in the paper DenseNet-121 of ImageNet) and a linear layer that begins at the mean.

    Squared error summed over genes, SGD with momentum 0.9 and a step of 1e-6, batches of 32, 50 epochs; tiles are
    turned and mirrored at random in training, and the prediction is the mean over the eight. On features the network is
    frozen, and the layer is trained with Adam, 1e-3 (ours: 1e-6 would not move it).

    References
    ----------
    He et al., Integrating spatial gene expression and breast tumour morphology via deep learning, Nature Biomedical
    Engineering 4, 827 (2020).
    """
    with _seeded(how):
        tiles, stem = _Tiles(train, test, how), _Stem(train, how)
        last = _last(stem.width, tiles.y)
        nn.init.zeros_(last.weight)
        network = nn.Sequential(stem, last).to(how.device)
        optimiser: torch.optim.Optimizer
        if stem.pixels:
            optimiser = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
        else:
            optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)

        def loss(rows: Tensor) -> Tensor:
            x = tiles.at(rows)
            if stem.pixels:
                symmetry = torch.randint(8, (len(x),)).tolist()
                x = torch.stack([_turned(tile, k) for tile, k in zip(x, symmetry, strict=True)])
            return (network(x) - tiles.y[rows]).square().sum(dim=1).mean()

        def predict(x: Tensor) -> Tensor:
            if not stem.pixels:
                return network(x)
            return torch.stack([network(_turned(x, k)) for k in range(8)]).mean(dim=0)

        _train(network, loss, _batches(len(tiles), 32, how.epochs or 50), optimiser)
        return [tiles.apply(predict, new).cpu().numpy() for new in tiles.new]


class _Projection(nn.Module):
    """BLEEP's projection head: linear, GELU, linear, dropout, residual, layer norm; to 256."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, _SHARED)
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(_SHARED, _SHARED), nn.Dropout(0.1))
        self.norm = nn.LayerNorm(_SHARED)

    def forward(self, values: Tensor) -> Tensor:
        projected = self.project(values)
        return self.norm(projected + self.rest(projected))


def bleep(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """BLEEP: tiles and expression in one space, and the mean expression of the 50 nearest training spots there.

    Soft contrastive loss with temperature 1, AdamW 1e-3 / 1e-3; in the paper a ResNet-50 reads the tiles. Batches of
    512 (64 of patches) and 50 epochs are ours, and no held-out spot chose them.

    References
    ----------
    Xie et al., Spatially resolved gene expression prediction from histology images via bi-modal contrastive learning,
    NeurIPS 2023.
    """
    with _seeded(how):
        tiles, stem = _Tiles(train, test, how), _Stem(train, how)
        image = nn.Sequential(stem, _Projection(stem.width)).to(how.device)
        gene = _Projection(tiles.y.shape[1]).to(how.device)
        both = nn.ModuleList([image, gene])
        optimiser = torch.optim.AdamW(both.parameters(), lr=1e-3, weight_decay=1e-3)

        def loss(rows: Tensor) -> Tensor:
            a, b = image(tiles.at(rows)), gene(tiles.y[rows])
            logits = b @ a.T
            wanted = (((a @ a.T) + (b @ b.T)) / 2).softmax(dim=-1).detach()
            return (nn.functional.cross_entropy(logits, wanted) + nn.functional.cross_entropy(logits.T, wanted.T)) / 2

        size = _STEP if stem.pixels else _CONTRASTED
        _train(both, loss, _batches(len(tiles), size, how.epochs or 50), optimiser)
        with torch.no_grad():
            key = nn.functional.normalize(gene(tiles.y), dim=-1)
            found = []
            for new in tiles.new:
                query = nn.functional.normalize(tiles.apply(image, new), dim=-1)
                best = (query @ key.T).topk(min(_RETRIEVED, len(key)), dim=-1).indices
                found.append(tiles.y[best].mean(dim=1).cpu().numpy())
        return found


def deep_pt(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """DeepPT on spots: features of a frozen network, compressed by an auto-encoder, and a perceptron; five averaged.

    In the paper the features are 2,048 of a ResNet-50, compressed to 512 (a quarter, here as well, at least 16), the
    perceptron has one hidden layer of 512, and it is trained on the mean of a slide's tiles, for bulk expression; here
    a spot is a sample. Each of the five leaves out another fifth of the training spots and keeps the epoch that is best
    on it. Adam 1e-3, batches of 128, 100 and 50 epochs, dropout 0.2 (ours).

    References
    ----------
    Hoang et al., A deep-learning framework to predict cancer treatment response from histopathology images through
    imputed transcriptomics, Nature Cancer 5, 1305 (2024).
    """
    with _seeded(how):
        tiles = _Tiles(train, test, how)
        width = tiles.x.shape[1]
        narrow = max(width // 4, min(16, width))
        squeeze = nn.Sequential(nn.Linear(width, narrow), nn.ReLU()).to(how.device)
        unfold = nn.Linear(narrow, width).to(how.device)
        both = nn.ModuleList([squeeze, unfold])

        def rebuilt(rows: Tensor) -> Tensor:
            x = tiles.at(rows)
            return nn.functional.mse_loss(unfold(squeeze(x)), x)

        optimiser = torch.optim.Adam(both.parameters(), lr=1e-3)
        _train(both, rebuilt, _batches(len(tiles), 128, how.epochs or 100), optimiser)
        code = tiles.apply(squeeze, tiles.x)
        codes = [tiles.apply(squeeze, new) for new in tiles.new]
        total = [torch.zeros(len(new), tiles.y.shape[1], device=how.device) for new in codes]
        bags = torch.randperm(len(tiles)).chunk(min(_BAGS, len(tiles)))
        for left_out in bags:
            inside = torch.ones(len(tiles), dtype=torch.bool)
            inside[left_out] = False
            network = _perceptron(code, tiles.y, inside.nonzero().squeeze(1), left_out, how.epochs or 50)
            with torch.no_grad():
                for sum_, new in zip(total, codes, strict=True):
                    sum_ += network(new) / len(bags)
        return [sum_.cpu().numpy() for sum_ in total]


def _perceptron(code: Tensor, y: Tensor, inside: Tensor, left_out: Tensor, epochs: int) -> nn.Module:
    """A perceptron as it was in the epoch that is best on the spots that are left out."""
    network = nn.Sequential(nn.Linear(code.shape[1], _HIDDEN), nn.ReLU(), nn.Dropout(0.2), _last(_HIDDEN, y[inside]))
    network.to(code.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    best, state = math.inf, copy.deepcopy(network.state_dict())

    def loss(rows: Tensor) -> Tensor:
        chosen = inside[rows]
        return nn.functional.mse_loss(network(code[chosen]), y[chosen])

    for _ in range(epochs):
        _train(network, loss, _batches(len(inside), 128, 1), optimiser)
        with torch.no_grad():
            error = nn.functional.mse_loss(network(code[left_out]), y[left_out]).item()
        if error < best:
            best, state = error, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)
    return network.eval()


class _SectionTransformer(nn.Module):
    """HisToGene: a section's tiles as a sequence, with embeddings of their column and row."""

    def __init__(self, stem: nn.Module, width: int, *, dim: int, places: int, y: Tensor) -> None:
        super().__init__()
        self.stem, self.enter = stem, nn.Linear(width, dim)
        self.column, self.row = nn.Embedding(places, dim), nn.Embedding(places, dim)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, 16, 2 * dim, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(4)
        )
        self.norm, self.last = nn.LayerNorm(dim), _last(dim, y)

    def forward(self, tiles: Tensor, steps: Tensor) -> Tensor:
        tokens = self.enter(self.stem(tiles)) + self.column(steps[:, 0]) + self.row(steps[:, 1])
        tokens = tokens.unsqueeze(0)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.last(self.norm(tokens.squeeze(0)))


def his_to_gene(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """HisToGene: a vision transformer whose sequence is a section, with embeddings of each tile's column and row.

    Pixels of a tile through one linear layer, width 1,024, four layers, sixteen heads, squared error, one section a
    step, Adam 1e-5, 100 epochs. On features the width is 128 and the step 1e-3 (ours). A column or row beyond those of
    the training sections has the embedding of the last one. All tiles of a section attend to each other, so that time
    and memory grow with their square.

    References
    ----------
    Pang, Su & Li, Leveraging information in spatial transcriptomics to predict super-resolution gene expression from
    histology images in tumors, bioRxiv 2021.11.28.470212 (2021).
    """
    with _seeded(how):
        tiles = _Tiles(train, test, how)
        flat = nn.Flatten() if tiles.pixels else nn.Identity()
        places = 1 + max(int(part.steps.max()) for part in train)
        network = _SectionTransformer(
            flat, int(np.prod(tiles.x.shape[1:])), dim=1024 if tiles.pixels else 128, places=places, y=tiles.y
        ).to(how.device)
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-5 if tiles.pixels else 1e-3)
        starts = np.cumsum([0, *(len(part.x) for part in train)])

        def steps(part: Part) -> Tensor:
            return torch.from_numpy(np.minimum(part.steps, places - 1)).to(how.device)

        def loss(which: Tensor) -> Tensor:
            k = int(which.item())
            rows = torch.arange(starts[k], starts[k + 1])
            return nn.functional.mse_loss(network(tiles.at(rows), steps(train[k])), tiles.y[rows])

        _train(network, loss, _batches(len(train), 1, how.epochs or 100), optimiser)
        with torch.no_grad():
            return [
                network(tiles.batch(new), steps(part)).cpu().numpy() for new, part in zip(tiles.new, test, strict=True)
            ]


def _last(width: int, y: Tensor) -> nn.Linear:
    """A last layer that begins at the mean expression."""
    layer = nn.Linear(width, y.shape[1])
    with torch.no_grad():
        layer.bias.copy_(y.mean(dim=0))
    return layer


def _turned(x: Tensor, symmetry: int) -> Tensor:
    """Tiles turned by quarters, and mirrored from the fifth symmetry on."""
    turned = torch.rot90(x, symmetry % 4, dims=(-2, -1))
    return turned.flip(-1) if symmetry >= 4 else turned


def _batches(n: int, size: int, epochs: int) -> Iterator[Tensor]:
    """Rows of each step, in another order in each epoch."""
    for _ in range(epochs):
        yield from torch.randperm(n).split(size)


def _train(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Train, and leave the network in evaluation mode."""
    network.train()
    for rows in batches:
        error = loss(rows)
        if not math.isfinite(error.item()):
            msg = f"the training diverged: its loss is {error.item()}; leave the method out"
            raise ValueError(msg)
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        optimiser.step()
    network.eval()


@contextmanager
def _seeded(how: Training) -> Iterator[None]:
    """Random numbers of a seed, which leaves those of the user alone."""
    with torch.random.fork_rng(devices=[how.device] if how.device.type == "cuda" else []):
        torch.manual_seed(how.seed)
        yield
