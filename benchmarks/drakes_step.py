"""One reward fine-tuning step of masked diffusion against the released arithmetic: CPU seconds and memory.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/drakes_step.py [--batch 2] [--moves 128] [--relaxed 50]

Both sides have the published network (DNA CNN, 128 channels, 20 blocks, kernel 9), length 200, and one step is the
sampling, the divergence, the reward and the backward pass. `released` follows the published arithmetic written plainly:
all N moves with automatic differentiation on, the tuned and the frozen network evaluated once more on each of the N
states for the divergence. Default: the published N = 128, K = 50 (about 70 CPU seconds).
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context

import torch
from torch import Tensor, nn

from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.state import Layout, State
from sciflow.domains.sequences.network import SequenceCNN
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral
from sciflow.training.reward_path import ExactPathKL, PathObjective

LENGTH, TOKENS, HIDDEN, STACKS = 200, 4, 128, 4
ALPHA, TAU = 0.1, 1.0


class PlainCNN(nn.Module):
    """The published network as written: channels first, a clock branch, a projection of it per block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(TOKENS + 1, HIDDEN, 9, padding=4)
        self.frequencies = nn.Parameter(torch.randn(HIDDEN // 2) * 30, requires_grad=False)
        self.clock = nn.Linear(HIDDEN, HIDDEN)
        dilations = [d for d in (1, 1, 4, 16, 64) for _ in range(STACKS)]
        self.convolutions = nn.ModuleList(nn.Conv1d(HIDDEN, HIDDEN, 9, padding=4 * d, dilation=d) for d in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in dilations)
        self.projections = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in dilations)
        self.mix, self.last = nn.Conv1d(HIDDEN, HIDDEN, 1), nn.Conv1d(HIDDEN, TOKENS + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 5) -> logits (B, L, 5), the clock fixed at zero."""
        angle = torch.zeros(len(x), 1) * self.frequencies * 2 * torch.pi
        code = self.clock(torch.cat([angle.sin(), angle.cos()], -1)).relu()
        h = self.first(x.transpose(1, 2)).relu()
        for convolution, norm, projection in zip(self.convolutions, self.norms, self.projections, strict=True):
            inner = h + projection(code)[:, :, None]
            h = h + convolution(norm(inner.transpose(1, 2)).transpose(1, 2)).relu()
        return self.last(self.mix(h).relu()).transpose(1, 2)


def subs(logits: Tensor, x: Tensor) -> Tensor:
    """Log-probabilities (B, L, 5): no mask, known tokens as they are."""
    state = x.argmax(-1)
    masked = nn.functional.pad(torch.zeros_like(logits[..., 1:]), (0, 1), value=-1e6)
    constant = torch.full_like(logits, -1e6).scatter(-1, state[..., None], 0.0)
    return torch.where((state != TOKENS)[..., None], constant, (logits + masked).log_softmax(-1))


def released_step(moves: int, relaxed: int, batch: int) -> Callable[[], None]:
    """The published step."""
    net, frozen, weights = PlainCNN(), PlainCNN().requires_grad_(False), torch.randn(LENGTH, TOKENS)

    def step() -> None:
        x = nn.functional.one_hot(torch.full((batch, LENGTH), TOKENS), TOKENS + 1).float()
        clocks = torch.linspace(1, 1e-5, moves + 1).tolist()
        states = []
        for k, (t, s) in enumerate(zip(clocks[:-1], clocks[1:], strict=True)):
            states.append((x, t))
            probs = subs(net(x), x).exp()
            joint = torch.cat([probs[..., :TOKENS] * (t - s), torch.full_like(x[..., :1], s)], -1)
            gumbel = -(1e-10 - (torch.rand_like(joint) + 1e-10).log()).log()
            if k < moves - relaxed:
                drawn = nn.functional.one_hot((joint.clamp_min(1e-20).log() + gumbel).argmax(-1), TOKENS + 1).float()
                x = torch.where(x[..., -1:] > 0, drawn, x).detach()
            else:
                soft = ((joint.clamp_min(1e-20).log() + gumbel) / TAU).softmax(-1)
                x = (1 - x[..., -1:]) * x + x[..., -1:] * soft
        kl = torch.zeros(batch)
        for state, t in states:
            log_p, log_q = subs(net(state), state)[..., :TOKENS], subs(frozen(state), state)[..., :TOKENS]
            rate = (1 - state[..., -1:]) * (log_q.exp() - log_p.exp() + log_p.exp() * (log_p - log_q)) / t
            kl = kl + (rate * state[..., :TOKENS]).sum((1, 2))
        v = x[..., :TOKENS]
        v = nn.functional.one_hot(v.argmax(-1), TOKENS).float() + v - v.detach()
        (ALPHA * kl - (v * weights).sum((1, 2))).mean().backward()

    return step


def our_step(moves: int, relaxed: int, batch: int, through: bool, kept: int, recompute: bool) -> Callable[[], None]:
    """One step of `sciflow.training.reward_path`."""
    process, weights = Masked(TOKENS), torch.randn(LENGTH, TOKENS)
    tuned, frozen = (Denoiser(SequenceCNN(TOKENS, HIDDEN, STACKS), {"seq": process}) for _ in range(2))
    frozen.requires_grad_(False)
    objective = PathObjective(
        lambda x, state: (x * weights).sum((1, 2)),
        ALPHA,
        SamplingPlan({"seq": Ancestral()}, Uniform(1.0, 0.0), moves, final="sample"),
        grad_last=relaxed,
        hard_moves=min(4, moves - relaxed),
        relaxed_moves=kept,
        divergence=ExactPathKL(through),
        recompute=recompute,
    )
    start = State({"seq": torch.full((batch, LENGTH), TOKENS)}, {"seq": Layout(batch)})
    return lambda: objective(tuned, frozen, "seq", start, Fresh(0)).loss.backward()


def measured(name: str, arguments: tuple, repeat: int) -> tuple[float, float]:
    """(CPU seconds per step, peak memory in MB above the start) in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (name, arguments, repeat))


def _measure(name: str, arguments: tuple, repeat: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = released_step(*arguments) if name == "released" else our_step(*arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print one row for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--moves", type=int, default=128)
    parser.add_argument("--relaxed", type=int, default=50, help="moves with gradients")
    parser.add_argument("--repeat", type=int, default=1, help="the fastest of so many steps counts")
    arguments = parser.parse_args()
    size = (arguments.moves, arguments.relaxed, arguments.batch)
    print(f"{platform.machine()}, 1 thread, CPU time; torch {torch.__version__}; N, K, B = {size}\n")
    print("| step | CPU s | share of released | peak MB |")
    print("|---|---|---|---|")
    reference, memory = measured("released", size, arguments.repeat)
    print(f"| released arithmetic | {reference:.2f} | 1 | {memory:.0f} |", flush=True)
    for label, options in {
        "sciflow, default (12 moves in the divergence, activations recomputed)": (True, 12, True),
        "sciflow, 12 moves, activations kept": (True, 12, False),
        "sciflow, all moves, activations kept": (True, arguments.relaxed, False),
        "sciflow, all moves, kept, no gradient through the frozen input": (False, arguments.relaxed, False),
    }.items():
        seconds, memory = measured("ours", (*size, *options), arguments.repeat)
        print(f"| {label} | {seconds:.2f} | {seconds / reference:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
