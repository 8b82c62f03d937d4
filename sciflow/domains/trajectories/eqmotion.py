r"""The one-layer EqMotion that judges generated trajectories: a classifier and a predictor.

EqMotion (Xu et al., CVPR 2023), as GeoTDM uses it for its classification and prediction scores: an SE(D)-equivariant
network on the discrete cosine transform of trajectories. Positions are centred over atoms and frames; time becomes
C = 16 coordinate channels; the classifier reads the invariant features, the predictor the channels, transformed back.
Small and quick to train on purpose: a stronger judge would give other figures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HIDDEN = CHANNELS = 16
CATEGORIES = 2
EPSILON = 1e-4


class EqMotion(nn.Module):
    """The network.

    Args:
        frames: Of the input, T.
        future: Of the prediction.
        scalars: Whether atoms have an invariant number (charge); without it that input is zero.
    """

    def __init__(self, frames: int, future: int, scalars: bool = False) -> None:
        super().__init__()
        self.scalars = scalars
        self.register_buffer("forth", cosine_transform(frames))
        self.register_buffer("back", cosine_transform(future).T.contiguous())
        self.embed_scalar = nn.Linear(frames, HIDDEN // 2)
        self.embed_angles = nn.Linear(frames, HIDDEN // 2)
        self.embed_channels = nn.Linear(frames, CHANNELS, bias=False)
        self.category = _mlp(2 * HIDDEN + CHANNELS, CATEGORIES)
        self.edge = nn.ModuleList(_mlp(2 * HIDDEN + CHANNELS, HIDDEN, last=nn.SiLU()) for _ in range(CATEGORIES))
        self.pull = _mlp(HIDDEN, CHANNELS)
        self.spread = _mlp(HIDDEN, CHANNELS)
        self.query = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.key = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.node = _mlp(2 * HIDDEN, HIDDEN)
        self.head = nn.Linear(CHANNELS, future, bias=False)

    def forward(self, positions: Tensor, scalars: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Prediction (B, future, N, D) and class logit (B,).

        Args:
            positions: (B, T, N, D).
            scalars: (B, N) or None.
        """
        centre = positions.mean((1, 2), keepdim=True)
        waves = torch.einsum("ft,btnd->bndf", self.forth, positions - centre)
        x = self.embed_channels(waves).transpose(2, 3)  # (B, N, C, D)
        h = self._features(positions, scalars)
        h, x = self._layer(h, x)
        future = torch.einsum("tf,bnfd->btnd", self.back, self.head(x.transpose(2, 3)).transpose(2, 3))
        return future + centre, h.mean((1, 2))

    def _features(self, positions: Tensor, scalars: Tensor | None) -> Tensor:
        """Invariant inputs: a number per atom, repeated, and the angles of velocities, which are passed as zeros."""
        batch, frames, atoms = positions.shape[:3]
        given = scalars if self.scalars and scalars is not None else positions.new_zeros(batch, atoms)
        right_angles = positions.new_full((batch, atoms, frames), math.pi / 2)  # arccos of 0
        repeated = given[:, :, None].expand(-1, -1, frames)
        return torch.cat([self.embed_scalar(repeated), self.embed_angles(right_angles)], -1)

    def _layer(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spread about the mean, pull along edges, vector activation, update of the invariant features."""
        atoms = h.shape[1]
        apart = x[:, :, None] - x[:, None]  # (B, N, N, C, D)
        pairs = torch.cat(
            [
                h[:, :, None].expand(-1, -1, atoms, -1),
                h[:, None].expand(-1, atoms, -1, -1),
                apart.square().sum(-1).add(1e-12).sqrt(),
            ],
            -1,
        )
        other = 1 - torch.eye(atoms, device=x.device)[:, :, None]
        weight = self.category(pairs).softmax(-1)
        edges = sum(weight[..., c : c + 1] * mlp(pairs) for c, mlp in enumerate(self.edge)) * other
        x = x + self.spread(h)[..., None] * (x - x.mean(1, keepdim=True))
        x = x + torch.einsum("bijc,bijcd->bicd", self.pull(edges) * other, apart)
        q, k = (torch.einsum("ec,bncd->bned", one.weight, x) for one in (self.query, self.key))
        along = (q * k).sum(-1, keepdim=True)
        x = torch.where(along >= 0, q, q - along / (k.square().sum(-1, keepdim=True) + EPSILON) * k)
        return h + self.node(torch.cat([h, edges.sum(2)], -1)), x


def cosine_transform(frames: int) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II), (frequencies, frames)."""
    order = torch.arange(frames, dtype=torch.float64)
    waves = torch.cos(math.pi / frames * order[:, None] * (order + 0.5)) * math.sqrt(2 / frames)
    waves[0] /= math.sqrt(2)
    return waves.float()


def _mlp(size: int, out: int, last: nn.Module | None = None) -> nn.Sequential:
    layers = [nn.Linear(size, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, out)]
    return nn.Sequential(*layers, *([last] if last else []))


def _train(network: EqMotion, loss, sets: tuple[Tensor, ...], epochs: int, batch: int, generator) -> None:
    """Adam with the published settings; `loss` of the rows of the sets."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(sets[0]), generator=generator).split(batch):
            optimizer.zero_grad()
            loss(*(one[rows] for one in sets)).backward()
            optimizer.step()


def classify(
    generated: Tensor,
    real: Tensor,
    scalars: tuple[Tensor, Tensor] | None = None,
    *,
    epochs: int = 100,
    batch: int = 128,
    seed: int = 0,
) -> float:
    """Binary cross-entropy [nats] of a classifier on the held-out 20 % of a 1:1 mixture, after the last epoch.

    ln 2 = 0.693: indistinguishable; lower: told apart; higher: an over-confident overfit, as good as ln 2.

    Args:
        generated: (n, T, N, D) float.
        real: (n, T, N, D): as many.
        scalars: Numbers of the atoms of both, (n, N) each.
        epochs: Of training on the other 80 %.
        batch: Size of a batch.
        seed: Of the split, the weights and the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([generated, real])
    order = torch.randperm(len(x), generator=generator)
    labels = torch.cat([torch.ones(len(generated)), torch.zeros(len(real))])[order]
    given = torch.cat(scalars) if scalars else x.new_zeros(len(x), x.shape[2])
    x, given, held = x[order], given[order], len(x) // 5
    network = _network(x.shape[1], x.shape[1], scalars is not None, seed)
    entropy = nn.BCEWithLogitsLoss()

    def loss(positions: Tensor, numbers: Tensor, target: Tensor) -> Tensor:
        return entropy(network(positions, numbers)[1], target)

    _train(network, loss, (x[held:], given[held:], labels[held:]), epochs, batch, generator)
    with torch.no_grad():
        return float(loss(x[:held], given[:held], labels[:held]))


def predict(
    train: Tensor,
    test: Tensor,
    scalars: tuple[Tensor, Tensor] | None = None,
    *,
    past: int | None = None,
    epochs: int = 100,
    batch: int = 128,
    seed: int = 0,
) -> float:
    """Mean squared error on `test` of a predictor of later from earlier frames that was trained on `train`.

    Args:
        train: (n, T, N, D), generated.
        test: (m, T, N, D), real.
        scalars: Numbers of the atoms of both.
        past: Frames that are given; None: half of them (10 of 20).
        epochs: Of training.
        batch: Size of a batch.
        seed: Of the weights and the batches.
    """
    past = train.shape[1] // 2 if past is None else past
    network = _network(past, train.shape[1] - past, scalars is not None, seed)
    numbers = scalars or tuple(one.new_zeros(len(one), one.shape[2]) for one in (train, test))

    def loss(positions: Tensor, given: Tensor) -> Tensor:
        return (network(positions[:, :past], given)[0] - positions[:, past:]).square().mean()

    _train(network, loss, (train, numbers[0]), epochs, batch, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float(loss(test, numbers[1]))


def _network(frames: int, future: int, scalars: bool, seed: int) -> EqMotion:
    """Weights from the seed, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EqMotion(frames, future, scalars)
