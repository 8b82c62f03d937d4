"""A trained model: denoiser, codec and sampling plan in one object that a single file rebuilds.

    model = sciflow.load("qm9-gdss")          # a shipped name, a .safetensors file or a Lightning checkpoint
    molecules = model.sample(100, seed=0)

Files hold tensors and JSON only: nothing is unpickled, no YAML and no data set is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sciflow
from sciflow.core.codec import Codec, batches_by_size, draw_sizes
from sciflow.core.config import from_config, to_config
from sciflow.core.denoiser import Denoiser
from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.core.grids import Below
from sciflow.core.hooks import Hook
from sciflow.core.noise import PRIOR, PerSample
from sciflow.core.process import Process
from sciflow.core.row_cache import RowCache
from sciflow.core.spaces import Discrete
from sciflow.core.state import State
from sciflow.sampling import SamplingPlan


class Model(nn.Module):
    """Denoiser + codec + sampling plan.

    Args:
        processes: Field -> process.
        network: Network of the one signature, `Configurable`.
        sampling: How to sample by default.
        codec: Objects <-> states; may come later, from the data module.
        spec: Plain dict: `sizes` (histogram), `domain`, `name`, and what the domain adds.
    """

    def __init__(
        self,
        processes: Mapping[str, Process],
        network: nn.Module,
        sampling: SamplingPlan,
        codec: Codec | None = None,
        spec: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = Denoiser(network, processes)
        self.processes = dict(processes)
        self.sampling, self.codec, self.spec = sampling, codec, dict(spec or {})
        sampling.sampler(self.processes)  # an unfit solver shows here, not after hours of training

    # -- files -------------------------------------------------------------------------------------------------------
    def config(self) -> dict[str, Any]:
        """Everything but the weights, as plain JSON."""
        return {
            "sciflow": sciflow.__version__,
            "processes": to_config(self.processes),
            "network": to_config(self.denoiser.network),
            "sampling": to_config(self.sampling),
            "codec": to_config(self.codec),
            "spec": self.spec,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Model:
        """A model with fresh weights from `config()`."""
        parts = {name: from_config(config[name]) for name in ("processes", "network", "sampling", "codec")}
        return cls(**parts, spec=config.get("spec"))

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a .safetensors file, atomically.

        Args:
            path: Target.
            dtype: Store floating-point weights in this type (e.g. bfloat16 halves the size); they load as float32.
        """
        from safetensors.torch import save_file

        weights = {
            name: (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous().cpu()
            for name, value in self.denoiser.state_dict().items()
        }
        with replacing(path) as temporary:
            save_file(weights, temporary, metadata={"sciflow": json.dumps(self.config())})

    # -- sampling ----------------------------------------------------------------------------------------------------
    def sizes(self, samples: Tensor, seed: int) -> list[int]:
        """Numbers of nodes of the samples with these global indices."""
        if "sizes" not in self.spec:
            raise UserError("this model stores no size histogram; pass sizes=[...], one number per sample")
        return draw_sizes(self.spec["sizes"], seed, samples)

    def generate(
        self,
        samples: Tensor,
        seed: int = 0,
        *,
        sizes: Sequence[int] | None = None,
        plan: SamplingPlan | None = None,
        hooks: Iterable[Hook] = (),
        template: State | None = None,
        start: float | None = None,
    ) -> State:
        """The samples with these global indices as one batch. Sample i depends on (seed, i) only.

        Args:
            samples: (B,) global indices.
            seed: Seed of the run.
            sizes: Numbers of nodes; None draws them from the training histogram.
            plan: Another sampling plan.
            hooks: Guidance.
            template: State with the layouts and conditions of the samples, in place of `sizes`. Its condition "fixed",
                (B, L) int64 and -1 where free, gives tokens that are known from the start (masked processes only).
            start: Clock to start from: the fields of the template, noised to it, in place of draws of the priors
                (SDEdit; Meng et al., arXiv 2108.01073). The moves above it are left out.

        Raises:
            UserError: No codec, known tokens that the model cannot keep, or `start` without a template or outside the
                grid.
        """
        if self.codec is None:
            raise UserError("this model has no codec: it was saved before it saw data")
        plan = plan if plan is not None else self.sampling
        if start is not None:
            if template is None:
                raise UserError("start: got a clock without a template, expected the state to start from")
            plan = SamplingPlan(
                plan.solvers, Below(plan.grid, start), plan.steps, plan.correct, plan.n_correct, plan.final
            )
        device = next(self.denoiser.parameters()).device
        noise = PerSample(seed, samples.to(device))
        if template is None:
            template = self.codec.template(sizes if sizes is not None else self.sizes(samples, seed))
        template = template.to(device)
        tokens = [
            name for name, process in self.processes.items() if isinstance(getattr(process, "space", None), Discrete)
        ]
        if tokens:  # moves leave most rows as they were
            hooks = [RowCache(getattr(self.denoiser.network, "clock_free", False)), *hooks]
        sampler = plan.sampler(self.processes, hooks)
        training, _ = self.denoiser.training, self.denoiser.eval()
        try:
            if any(process.prepared for process in self.processes.values()):
                with torch.no_grad():  # the prior lies around the anchors
                    template = self.denoiser.prepare(template)
            state = sampler.prior(template, noise) if start is None else sampler.noised(template, start, noise)
            if "fixed" in state.cond:
                state = _with_known_tokens(state, self.processes)
            state = sampler.run(state, self.denoiser, noise, steps=plan.steps, final=plan.final).state  # type: ignore[arg-type]
            return self._finished(state, noise, plan.grid.moves(plan.steps)[-1][1])
        finally:
            self.denoiser.train(training)

    def _finished(self, state: State, noise: PerSample, clock: float) -> State:
        """Data: masks that a solver left (tau-leaping, grids that end above 0) are drawn at once, fields decoded."""
        left = [n for n, p in self.processes.items() if hasattr(p, "masked") and bool(_masks(p, state, n).any())]
        if left:
            t = torch.tensor(clock, dtype=torch.float64)
            with torch.no_grad():
                predictions = self.denoiser(self.denoiser.prepare(state), dict.fromkeys(state.fields, t))
            for name in left:
                process: Any = self.processes[name]
                law = process.reconstruction(state[name], predictions[name].to("data"), t, state.layouts[name])
                drawn = law.sample(noise.at(f"{name}/rest", PRIOR))
                state = state.put(**{name: torch.where(_masks(process, state, name), drawn, state[name])})
        return state.put(**{name: process.decode(state[name], None) for name, process in self.processes.items()})

    def sample_state(
        self,
        num: int,
        seed: int = 0,
        *,
        sizes: Sequence[int] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        hooks: Iterable[Hook] = (),
    ) -> State:
        """`num` samples as one raw state; arguments as in `sample`."""
        _check_number("num", num)
        if sizes is not None and len(sizes) != num:
            raise UserError(f"got {len(sizes)} sizes for {num} samples; give one per sample")
        return self.generate(
            torch.arange(num), seed, sizes=sizes, plan=self.sampling.changed(steps, solver), hooks=hooks
        )

    def sample(
        self,
        num: int,
        seed: int = 0,
        *,
        batch_size: int = 256,
        sizes: Sequence[int] | None = None,
        steps: int | None = None,
        solver: str | None = None,
        hooks: Iterable[Hook] = (),
    ) -> list[Any]:
        """`num` objects of the domain (RDKit molecules, networkx graphs ...).

        Args:
            num: How many.
            seed: Sample i depends on (seed, i) only, never on batch size or batch-mates.
            batch_size: How many at a time.
            sizes: Numbers of nodes, one per sample; None draws them from the training histogram.
            steps: Number of moves; None: the model's default.
            solver: Name of a solver for all fields; None: the model's default.
            hooks: Guidance.
        """
        _check_number("num", num)
        _check_number("batch_size", batch_size)
        plan, hooks = self.sampling.changed(steps, solver), tuple(hooks)
        objects: list[Any] = [None] * num
        for batch in batches_by_size(sizes if sizes is not None else self.sizes(torch.arange(num), seed), batch_size):
            state = self.generate(torch.tensor(batch.samples), seed, sizes=batch.sizes, plan=plan, hooks=hooks)
            for i, item in zip(batch.samples, self.codec.to_objects(state), strict=True):  # type: ignore[union-attr]
                objects[i] = item
        return objects


def _with_known_tokens(state: State, processes: Mapping[str, Process]) -> State:
    """The prior state with the tokens of `cond["fixed"]`. Masked processes carry them over, others would lose them."""
    fixed, masked = state.cond["fixed"], [name for name, one in processes.items() if "masked" in one.provides()]
    if len(masked) != 1:
        raise UserError(
            f"known tokens (cond['fixed']): got a model with {len(masked)} masked token fields among "
            f"{', '.join(processes)}, expected exactly one; other processes do not keep tokens"
        )
    name, x = masked[0], state[masked[0]]
    letters: int = processes[name].tokens  # type: ignore[assignment]
    if fixed.shape != x.shape or fixed.is_floating_point() or bool((fixed >= letters).any()):
        raise UserError(
            f"known tokens (cond['fixed']): got {fixed.dtype} {tuple(fixed.shape)}, expected integers "
            f"{tuple(x.shape)} below {letters}, -1 where free"
        )
    return state.put(**{name: torch.where(fixed < 0, x, fixed)})


def load(source: str | Path) -> Model:
    """Load a model for sampling.

    Args:
        source: Name of a shipped model (`sciflow list models`), a .safetensors file, or a checkpoint of `sciflow fit`
            (its averaged weights).

    Raises:
        UserError: No such file or name, not a sciflow model, or a damaged file.
    """
    from sciflow.pretrained import cards, resolve

    path = resolve(source)
    if use := cards().get(str(source), {}).get("use"):
        raise UserError(f"'{source}' infers and does not sample; use {use}")
    try:
        config, weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
        model = Model.from_config(config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"cannot read '{path}' as a sciflow model: {type(error).__name__}: {error}; expected a .safetensors or "
            ".ckpt file written by sciflow"
        ) from error
    try:
        model.denoiser.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    except RuntimeError as error:
        raise UserError(f"the weights in '{path}' do not fit its own configuration: {error}") from error
    return model.eval()


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "sciflow" not in metadata:
            raise UserError(
                f"'{path}' holds tensors but no sciflow model; convert foreign weights with `sciflow convert`"
            )
        return json.loads(metadata["sciflow"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, dict) or "sciflow" not in checkpoint:
        raise UserError(f"'{path}' is no checkpoint of `sciflow fit`; convert foreign ones with `sciflow convert`")
    prefix = "model.denoiser."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return checkpoint["sciflow"], weights


def _masks(process: Any, state: State, name: str) -> Tensor:
    """Which real entries of a token field are masked: bool like the field."""
    masked, mask = process.masked(state[name]), state.layouts[name].mask
    return masked if mask is None else masked & (mask > 0)


def _check_number(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")
