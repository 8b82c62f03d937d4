r"""Messages of EGTN's spatial layers along blocks of edges, so that what is made per edge stays in the cache.

With u = start_i + end_j + static_e + d_ij w (per edge e = (i, j) and frame) the messages are
m = silu(A silu(u) + a), summed over the edges of each receiver i, and their coordinate weights c . silu(B m + b) + c0.
Automatic differentiation would keep six arrays of the size edges x frames x H per layer; here the inner values of the
two hidden layers are kept and the rest is made again, block by block, in a backward pass written by hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROWS = 1024  # edges x frames of one block on a CPU: 0.5 MB at H = 128


class EdgeMessages(torch.autograd.Function):
    """(start, end, static, distance, w, A, a, B, b, c, c0, receivers, senders, keep) -> (sums, coordinate weights).

    start, end (N, T, H); static (E, H); distance (E, T, 1); w (H,); A, B (H, H); a, b (H,); c (1, H); c0 (1,);
    receivers, senders (E,); sums (N, T, H); weights (E, T, 1). Differentiable once, if what that needs is to be kept:
    `keep` is `torch.is_grad_enabled()` of the caller, which is not known in here.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Block by block; the two inner values are kept only if gradients are asked for."""
        *inputs, keep = arguments
        start, _, static, distance, _, weight_a, bias_a, weight_b, bias_b, weight_c, bias_c, receivers, _ = inputs
        sums, weights = torch.zeros_like(start), torch.empty_like(distance)
        frames, hidden = start.shape[1:]
        kept = [start.new_empty(len(static) if keep else 0, frames, hidden) for _ in range(2)]
        for part in _blocks(start, static):
            value = functional.silu(_first(inputs, part), inplace=True)
            for i, (weight, bias) in enumerate(((weight_a, bias_a), (weight_b, bias_b))):
                inner = kept[i][part] if keep else torch.empty_like(value)  # no copies: most time goes into passes
                torch.addmm(bias, value.flatten(0, 1), weight.T, out=inner.flatten(0, 1))
                value = functional.silu(inner, inplace=not keep)
                if i == 0:
                    sums.flatten(1).index_add_(0, receivers[part], value.flatten(1))
            torch.add(value @ weight_c.T, bias_c, out=weights[part])
        if keep:
            ctx.save_for_backward(*inputs, *kept)
        return sums, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all but the indices."""
        *inputs, kept_a, kept_b = ctx.saved_tensors
        start, end, static, distance, w, weight_a, bias_a, weight_b, bias_b, weight_c, bias_c, receivers, senders = (
            inputs
        )
        g_sums, g_weights = (grad.contiguous() for grad in grads)
        g_start, g_end, g_static, g_distance = (torch.zeros_like(v) for v in (start, end, static, distance))
        g_w, g_a, g_bias_a, g_b, g_bias_b, g_c = (
            torch.zeros_like(v) for v in (w, weight_a, bias_a, weight_b, bias_b, weight_c)
        )
        for part in _blocks(start, static):
            first, inner_a, inner_b = _first(inputs, part), kept_a[part], kept_b[part]
            g = g_weights[part]
            g_c[0].addmv_(functional.silu(inner_b).flatten(0, 1).T, g.flatten())
            g = torch.ops.aten.silu_backward(g * weight_c, inner_b)
            g_b.addmm_(g.flatten(0, 1).T, functional.silu(inner_a).flatten(0, 1))
            g_bias_b += g.sum((0, 1))
            g = (g @ weight_b).add_(g_sums.index_select(0, receivers[part]))
            g = torch.ops.aten.silu_backward(g, inner_a)
            g_a.addmm_(g.flatten(0, 1).T, functional.silu(first).flatten(0, 1))
            g_bias_a += g.sum((0, 1))
            g = torch.ops.aten.silu_backward(g @ weight_a, first)
            g_start.flatten(1).index_add_(0, receivers[part], g.flatten(1))
            g_end.flatten(1).index_add_(0, senders[part], g.flatten(1))
            torch.sum(g, 1, out=g_static[part])
            torch.matmul(g, w[:, None], out=g_distance[part])
            g_w.addmv_(g.flatten(0, 1).T, distance[part].flatten())
        g_c0 = g_weights.sum().reshape(1)
        return g_start, g_end, g_static, g_distance, g_w, g_a, g_bias_a, g_b, g_bias_b, g_c, g_c0, None, None, None


def _first(inputs: Any, part: slice) -> Tensor:
    """u of a block of edges: (E', T, H)."""
    start, end, static, distance, w, *_, receivers, senders = inputs
    value = start.index_select(0, receivers[part]).add_(end.index_select(0, senders[part]))
    return value.add_(static[part, None]).addcmul_(distance[part], w)


def _blocks(start: Tensor, static: Tensor) -> list[slice]:
    """Blocks of edges: small ones on a CPU, whose cache they fit, one on other devices."""
    size = max(1, ROWS // start.shape[1]) if start.device.type == "cpu" else len(static)
    return [slice(i, i + size) for i in range(0, len(static), size)]
