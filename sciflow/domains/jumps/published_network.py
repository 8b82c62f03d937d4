"""The published networks of FIM-MJP (Berghaus et al., NeurIPS 2024, arXiv 2406.06419; specification, sections 4 and 5).

    path:    tokens [time features, one-hot label] -> transformer encoder or bidirectional LSTM -> one vector
    system:  16 learned queries attend over the paths' vectors; the number of paths / 100 is appended
    heads:   logarithms of mean and deviation of the 30 rates; logits of the initial law

Layer sizes are those of the released models (3 467 830 and 1 244 226 parameters). Kept for comparison: at most six
states, not equivariant to relabelling, and not to be fed more than 300 paths (section 7). Its cost grows with the
number of observations; `PairNetwork` is the default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.domains.jumps.batch import PathBatch, Truth, pairs

STATES, QUERIES = 6, 16


@dataclass(frozen=True, eq=False)
class PublishedLaw:
    """Normal laws of rates.

    Attributes:
        log_mean: (B, 6, 6) logarithm of the mean of each rate, in the unit of time of the data.
        log_sd: (B, 6, 6) logarithm of its deviation.
        initial: (B, 6) logits.
        n_states: (B,) numbers of states.
        factor: (B,) the normalisation: the largest time.
    """

    log_mean: Tensor
    log_sd: Tensor
    initial: Tensor
    n_states: Tensor
    factor: Tensor

    def mean(self) -> Tensor:
        """Rates (B, 6, 6); 0 on the diagonal and for padding."""
        return self.log_mean.exp() * pairs(self.n_states, STATES)

    def deviation(self) -> Tensor:
        """Deviations of the rates, (B, 6, 6)."""
        return self.log_sd.exp() * pairs(self.n_states, STATES)


class TimeFeatures(nn.Module):
    """One linear feature and sines of time with learned frequencies and phases.

    Args:
        width: Number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, width)

    def forward(self, times: Tensor) -> Tensor:
        """(..., L) -> (..., L, width)."""
        phases = self.linear(times[..., None])
        return torch.cat([phases[..., :1], phases[..., 1:].sin()], -1)


class TransformerPaths(nn.Module, Configurable):
    """Path encoder: 4 post-norm layers; the first token is masked and the second is read (section 12.1).

    Args:
        width: Of tokens.
        layers: Number of layers.
        heads: Number of heads.
        feedforward: Width between.
        dropout: Probability.
    """

    def __init__(
        self, width: int = 256, layers: int = 4, heads: int = 4, feedforward: int = 1024, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.width, self.times = width, TimeFeatures(width - STATES)
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, times: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Times (N, L), one-hot labels (N, L, 6), lengths (N,) -> (N, width)."""
        if int(lengths.min()) < 2:
            raise UserError("the published transformer reads the second observation: got a path of one, expected two")
        place = torch.arange(times.shape[1], device=times.device)
        hidden = (place >= lengths[:, None]) | (place == 0)
        return self.encoder(torch.cat([self.times(times), labels], -1), src_key_padding_mask=hidden)[:, 1]


class RecurrentPaths(nn.Module, Configurable):
    """Path encoder: one bidirectional LSTM layer on (t, step, one-hot), read at the last observation.

    Args:
        hidden: Per direction.
    """

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.width = 2 * hidden
        self.lstm = nn.LSTM(2 + STATES, hidden, batch_first=True, bidirectional=True)
        for name, weight in self.lstm.named_parameters():
            nn.init.zeros_(weight) if "bias" in name else nn.init.orthogonal_(weight)

    def forward(self, times: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Times (N, L), one-hot labels (N, L, 6), lengths (N,) -> (N, 2 hidden)."""
        tokens = torch.cat([times[..., None], times.diff(dim=1, prepend=times[:, :1])[..., None], labels], -1)
        packed = pack_padded_sequence(tokens, lengths.cpu(), batch_first=True, enforce_sorted=False)
        begin = tokens.new_zeros(2, len(tokens), self.width // 2)
        output, _ = pad_packed_sequence(self.lstm(packed, (begin, begin + 1))[0], batch_first=True)
        return output[torch.arange(len(output), device=output.device), lengths - 1]


class PathAttention(nn.Module):
    """Learned queries that attend over paths.

    Args:
        inputs: Width of the paths' vectors.
        width: Of keys and values.
        heads: Number of heads.
        last: Whether only the last query's output is kept, through a projection; False: all 16, side by side.
    """

    def __init__(self, inputs: int, width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.outputs = width if last else QUERIES * width
        self.queries = nn.Parameter(torch.randn(heads, QUERIES, width // heads) / math.sqrt(width // heads))
        self.keys, self.values = nn.Linear(inputs, width, bias=False), nn.Linear(inputs, width, bias=False)
        self.out = nn.Linear(width, width, bias=False) if last else nn.Identity()

    def forward(self, paths: Tensor, mask: Tensor) -> Tensor:
        """Paths (B, K, inputs), mask (B, K) bool -> (B, outputs)."""
        keys, values = (
            f(paths).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.keys, self.values)
        )  # (B, heads, K, width / heads)
        queries = self.queries.expand(len(paths), -1, -1, -1)
        found = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None])
        found = found.transpose(1, 2).flatten(2)  # (B, 16, width)
        return self.out(found[:, -1]) if self.last else found.flatten(1)


class PublishedNetwork(nn.Module, Configurable):
    """Rates from paths as published. The defaults are the released transformer.

    Args:
        encoder: Of paths; None: `TransformerPaths()`.
        attention_width: Of keys and values.
        attention_heads: Number of heads.
        last: See `PathAttention`.
        dropout: Of the heads.
    """

    def __init__(
        self,
        encoder: TransformerPaths | RecurrentPaths | None = None,
        attention_width: int = 256,
        attention_heads: int = 4,
        last: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder or TransformerPaths()
        self.attention = PathAttention(self.encoder.width, attention_width, attention_heads, last)
        self.rates = _head(self.attention.outputs + 1, 2 * STATES * (STATES - 1), dropout)
        self.initial = _head(self.attention.outputs + 1, STATES, dropout)

    def forward(self, batch: PathBatch) -> PublishedLaw:
        """Normal laws of the rates of each system.

        Raises:
            UserError: More than six states.
        """
        if batch.size > STATES:
            raise UserError(f"the published network knows at most {STATES} states, got {batch.size}")
        mask = batch.lengths > 0
        times = batch.times.expand(batch.states.shape)
        valid = torch.arange(times.shape[-1], device=times.device) < batch.lengths[..., None]
        factor = torch.where(valid, times, 0.0).amax((1, 2)).clamp_min(1e-30)
        labels = nn.functional.one_hot(batch.states[mask].long(), STATES).float()
        found = self.encoder((times / factor[:, None, None])[mask].float(), labels, batch.lengths[mask])
        paths = found.new_zeros(*mask.shape, found.shape[-1])
        paths[mask] = found
        summary = torch.cat([self.attention(paths, mask), mask.sum(1, keepdim=True) / 100], -1)
        log_mean, log_sd = self.rates(summary).view(len(batch), 2, -1).unbind(1)
        off = ~torch.eye(STATES, dtype=torch.bool)
        tables = log_mean.new_zeros(2, len(batch), STATES, STATES)
        tables[:, :, off.to(tables.device)] = torch.stack([log_mean, log_sd]) - factor.log().float()[:, None]
        return PublishedLaw(tables[0], tables[1], self.initial(summary), batch.n_states, factor)


class PublishedLoss(Configurable):
    """L_rate + L_init + weight L_zero of section 5, with the whole initial law as target in place of its maximum.

    Args:
        weight: Of L_zero.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, law: PublishedLaw, truth: Truth) -> Tensor:
        """Loss per system, (B,)."""
        off = ~torch.eye(STATES, dtype=torch.bool)
        target = nn.functional.pad(truth.rates, [0, STATES - truth.rates.shape[-1]] * 2)
        there, mean, variance = target > 0, law.log_mean.exp(), (2 * law.log_sd).exp().clamp_min(1e-6)
        normal = 0.5 * (variance.log() + (target - mean) ** 2 / variance + math.log(2 * math.pi))
        rate = (normal * there).sum((1, 2)) / there.sum((1, 2))
        absent = off.to(there.device) & ~there
        size = law.factor[:, None, None].float() * (mean**2 + variance) * absent
        zero = size.sum((1, 2)) / absent.sum((1, 2)).clamp_min(1)
        initial = nn.functional.pad(truth.initial, [0, STATES - truth.initial.shape[-1]])
        return rate - (initial * law.initial.log_softmax(-1)).sum(-1) + self.weight * zero


def _head(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (128, 128):
        layers += [nn.Linear(inputs, width), nn.SELU(), nn.Dropout(dropout)]
        inputs = width
    layers.append(nn.Linear(inputs, outputs))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
