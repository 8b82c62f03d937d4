"""The peers of `cells_peers.py`, run by the Python that has them: moscot and torchcfm. Imports nothing of sciflow.

    PEERS_PYTHON benchmarks/cells_peers_worker.py METHOD PROBLEM.npz RESULT.npz

PROBLEM holds X0, X1, ... at `times`, the `held` times, `sigma`, `samples` and `seed`; RESULT gets Y0, Y1, ... (samples,
d) at the held times, the CPU `seconds` after imports, and `versions`. Settings are those of the packages' examples:
moscot with its defaults and straight lines between coupled cells; torchcfm with its own MLP (width 64), minibatch plans
of 128 cells, 2000 Adam steps at 1e-3, each on one random interval, run from the snapshot before the held-out time.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time

import numpy as np

STEPS, BATCH, MOVES = 2000, 128, 50


def moscot(clouds, times, held, sigma, samples, draw):
    """TemporalProblem (entropic OT, epsilon 1e-3 of the mean cost), then linear interpolation."""
    import anndata
    import pandas as pd
    from moscot.problems.time import TemporalProblem  # pyright: ignore[reportMissingImports]

    names = np.repeat(np.arange(len(times)), [len(x) for x in clouds])
    adata = anndata.AnnData(np.concatenate(clouds).astype(np.float32))
    adata.obs["time"] = pd.Categorical(names)
    adata.obsm["X_pca"] = adata.X
    yield
    problem = TemporalProblem(adata).prepare("time", joint_attr="X_pca").solve()
    for time_ in held:
        k = int(np.searchsorted(times, time_)) - 1
        plan = np.asarray(problem.solutions[(k, k + 1)].transport_matrix, dtype=float)
        pairs = draw.choice(plan.size, size=samples, p=plan.ravel() / plan.sum())
        share = (time_ - times[k]) / (times[k + 1] - times[k])
        yield (1 - share) * clouds[k][pairs // plan.shape[1]] + share * clouds[k + 1][pairs % plan.shape[1]]


def flow(clouds, times, held, sigma, samples, draw, stochastic):
    """OT-CFM, or [SF]2M with the noise of the problem; unit time in each interval."""
    import torch
    from torchcfm.conditional_flow_matching import (  # pyright: ignore[reportMissingImports]
        ExactOptimalTransportConditionalFlowMatcher,
        SchrodingerBridgeConditionalFlowMatcher,
    )
    from torchcfm.models import MLP  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    torch.manual_seed(int(draw.integers(2**31)))
    data, dim, gaps = [torch.as_tensor(x, dtype=torch.float32) for x in clouds], clouds[0].shape[1], np.diff(times)
    noise = sigma * np.sqrt(gaps)  # in unit time
    yield
    matchers = [
        SchrodingerBridgeConditionalFlowMatcher(float(s))
        if stochastic
        else ExactOptimalTransportConditionalFlowMatcher(0.0)
        for s in noise
    ]
    velocity, score = (MLP(dim=dim, w=64, time_varying=True) for _ in range(2))
    optimizer = torch.optim.Adam([*velocity.parameters(), *score.parameters()], 1e-3)
    for _ in range(STEPS):
        k = int(draw.integers(len(gaps)))
        ends = [data[j][torch.as_tensor(draw.integers(len(data[j]), size=BATCH))] for j in (k, k + 1)]
        found = matchers[k].sample_location_and_conditional_flow(*ends, return_noise=stochastic)
        t, x, u = found[:3]
        inputs = torch.cat([x, (t + k)[:, None]], 1)
        loss = (velocity(inputs) - u).square().mean()
        if stochastic:  # the score network is sigma^2 / 2 times the score
            weight = matchers[k].compute_lambda(t)[:, None]
            loss = loss + (weight * score(inputs) + found[3]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for time_ in held:
            k = int(np.searchsorted(times, time_)) - 1
            x = data[k][torch.as_tensor(draw.integers(len(data[k]), size=samples))]
            step = (time_ - times[k]) / gaps[k] / MOVES
            for j in range(MOVES):
                inputs = torch.cat([x, torch.full((samples, 1), k + j * step)], 1)
                x = x + step * velocity(inputs)
                if stochastic:
                    x = x + step * score(inputs) + noise[k] * np.sqrt(step) * torch.randn_like(x)
            yield x.numpy()


METHODS = {
    "moscot": moscot,
    "torchcfm OT-CFM": lambda *words: flow(*words, stochastic=False),
    "torchcfm [SF]2M": lambda *words: flow(*words, stochastic=True),
}


def main() -> None:
    """Run one method on one problem."""
    method, source, target = sys.argv[1:]
    with np.load(source) as file:
        times, held = file["times"], file["held"]
        clouds = [file[f"X{k}"] for k in range(len(times))]
        words = (
            clouds,
            times,
            held,
            float(file["sigma"]),
            int(file["samples"]),
            np.random.default_rng(int(file["seed"])),
        )
    run = METHODS[method](*words)
    next(run)  # imports and conversion
    start = time.process_time()
    found = list(run)
    seconds = time.process_time() - start
    packages = ("moscot", "jax") if method == "moscot" else ("torchcfm", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    np.savez(target, seconds=seconds, versions=versions, **{f"Y{i}": y for i, y in enumerate(found)})


if __name__ == "__main__":
    main()
