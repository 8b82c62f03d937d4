"""Training of denoisers: perturb, one network call, compare per field. The sampler's loop takes no part.

x0 = encode(batch);  t ~ time law, one clock per sample shared by its fields;  x_t ~ marginal(x0, t[, x1]);
loss = mean over samples of sum over fields of weight * objective(prediction, x0).

All random numbers of a step come from a generator seeded with (seed, rank, epoch, batch): a resumed run repeats them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sciflow.core.coupling import Coupling
from sciflow.core.errors import UserError
from sciflow.core.noise import PRIOR, Draws, Fresh
from sciflow.core.objective import Example, Objective
from sciflow.core.process import Process
from sciflow.core.state import Layout, State
from sciflow.core.time_laws import Stratified, TimeLaw
from sciflow.model import Model
from sciflow.sampling import SamplingPlan

OptimizerFactory = Callable[[Iterable], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class Denoising(LightningModule):
    """Lightning module around a `Model`.

    Args:
        processes: Field -> process.
        network: Network; if it has `build(features)`, it gets the data's feature counts when training starts, and
            parts of it with `fit_to(samples)` get the training samples.
        objectives: Field -> objective.
        sampling: Default sampling plan, stored in checkpoints.
        time_law: Law of training clocks.
        weights: Field -> weight of its loss; 1 where not given.
        coupling: Pairs data with prior ends; None: independent noise.
        optimizer: Parameters -> optimizer.
        scheduler: Optimizer -> learning-rate scheduler, stepped every batch; None: constant.
        seed: Of the training noise.
    """

    def __init__(
        self,
        processes: dict[str, Process],
        network: nn.Module,
        objectives: dict[str, Objective],
        sampling: SamplingPlan,
        time_law: TimeLaw | None = None,
        weights: dict[str, float] | None = None,
        coupling: Coupling | None = None,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        scheduler: SchedulerFactory | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if sorted(objectives) != sorted(processes):
            raise UserError(
                f"one objective per field: processes for {sorted(processes)}, objectives for {sorted(objectives)}"
            )
        self.model = Model(processes, network, sampling)
        self.objectives, self.weights = dict(objectives), dict(weights or {})
        self.time_law, self.coupling = time_law if time_law is not None else Stratified(), coupling
        self.finite: Tensor = torch.tensor(True)
        self.factories, self.seed = _Factories(optimizer, scheduler), seed

    def setup(self, stage: str) -> None:
        """Take codec and spec from the data module, and size the network by the data. May be called twice."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None or self.model.codec is not None:
            return
        self.model.codec, self.model.spec = data.codec, {**self.model.spec, **data.spec}
        build = getattr(self.model.denoiser.network, "build", None)
        if build is not None:
            build(data.features)
        for part in list(self.model.denoiser.network.modules()):
            if hasattr(part, "fit_to"):  # closed-form parts
                part.fit_to(data.samples["train"])  # type: ignore[operator]

    def losses(self, batch: State, noise: Fresh, clocks: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of each field per sample, {field: (B,)}.

        Args:
            batch: Clean data.
            noise: Source of clocks and noise.
            clocks: (B,) clocks instead of drawn ones.
        """
        processes = self.model.processes
        clean = batch.put(**{name: p.encode(batch[name]) for name, p in processes.items()})
        clean = self.model.denoiser.prepare(clean)
        first = clean[next(iter(processes))]
        if clocks is None:
            like = torch.empty(clean.batch, device=first.device)
            clocks = self.time_law.sample(noise.uniform(like, Layout(clean.batch)))
        ends = self._prior_ends(clean, noise)
        noised = {}
        for name, process in processes.items():
            x1 = ends[name] if ends is not None and process.joins_ends else None
            draws: Draws = noise if ends is None or process.joins_ends else _Paired(ends[name])
            noised[name] = process.marginal(clean[name], clocks, clean.layouts[name], x1).sample(draws)  # type: ignore[operator]
        state = clean.put(**noised)
        preds = self.model.denoiser(state, dict.fromkeys(processes, clocks))
        return {
            name: objective(
                preds[name],
                Example(name, clean[name], state, self.model.denoiser, None if ends is None else ends[name]),
            )
            for name, objective in self.objectives.items()
        }

    def training_step(self, batch: State, batch_idx: int) -> Tensor:
        """Weighted sum of the fields' losses, averaged over samples."""
        return self._step(batch, "train", self._noise(f"train/{self.current_epoch}/{batch_idx}", batch))

    def validation_step(self, batch: State, batch_idx: int) -> Tensor:
        """The same loss with the same noise in every epoch, so that curves compare."""
        return self._step(batch, "val", self._noise(f"val/{batch_idx}", batch))

    def test_step(self, batch: State, batch_idx: int) -> Tensor:
        """As validation."""
        return self._step(batch, "test", self._noise(f"test/{batch_idx}", batch))

    def configure_optimizers(self) -> Any:
        """Optimizer and, if given, a scheduler stepped every batch."""
        optimizer = self.factories.optimizer(self.parameters())
        if self.factories.scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.factories.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As torch does, but a checkpoint of another network is one sentence.

        Raises:
            UserError: The weights do not fit this configuration.
        """
        try:
            return super().load_state_dict(state_dict, *args, **options)
        except RuntimeError as error:
            first = " ".join(str(error).splitlines()[1:2]).strip().split(": copying")[0][:120]
            raise UserError(
                f"the checkpoint holds weights of another network or data set ({first}); "
                "give the configuration it was trained with, or leave out --ckpt_path"
            ) from None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what rebuilds the model without YAML or data; refuse to store weights of a diverged run."""
        self._check_finite()
        checkpoint["sciflow"] = self.model.config()

    def _step(self, batch: State, stage: str, noise: Fresh) -> Tensor:
        losses = {name: loss.mean() for name, loss in self.losses(batch, noise).items()}
        total = torch.stack([self.weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        logged = {f"{stage}/loss": total, **{f"{stage}/loss_{name}": loss for name, loss in losses.items()}}
        self.log_dict(logged, batch_size=batch.batch, sync_dist=True, on_epoch=True, on_step=False)
        if stage == "train":
            self.finite = self.finite.to(total.device) & torch.isfinite(total.detach())
            if total.device.type == "cpu" or self.global_step % 50 == 0:  # a look at a GPU's value waits for it
                self._check_finite()
        return total

    def _check_finite(self) -> None:
        if not bool(self.finite):
            raise UserError(
                f"the training loss became NaN or infinite at or before step {self.global_step}; "
                "the last checkpoint is kept. Lower the learning rate, clip gradients (trainer.gradient_clip_val), "
                "or look for non-finite values in the data"
            )

    def _noise(self, label: str, batch: State) -> Fresh:
        digest = hashlib.blake2b(f"{self.seed}/{self.global_rank}/{label}".encode(), digest_size=7).digest()
        return Fresh(int.from_bytes(digest, "little"), next(iter(batch.fields.values())).device)

    def _prior_ends(self, clean: State, noise: Fresh) -> State | None:
        """Noise paired with the data by the coupling, or the prior ends x1 of bridges and interpolants.

        Paired data bring their own x1 of field f as the condition "x1:f".
        """
        processes = self.model.processes
        if self.coupling is None and not any(process.joins_ends for process in processes.values()):
            return None

        def draw(copy: int) -> State:
            ends = {}
            for name, process in processes.items():
                unmasked = Layout(clean.batch, clean.layouts[name].index)  # the pairing may change a sample's size
                ends[name] = process.space.noise(clean[name], unmasked, noise.at(name, PRIOR, copy))  # type: ignore[union-attr, operator]
            return clean.put(**ends)

        ends = draw(0) if self.coupling is None else self.coupling.pair(clean, draw)
        ends = State(ends.fields, clean.layouts, clean.cond)
        for name, process in processes.items():
            if process.joins_ends:
                x1 = clean.cond.get(f"x1:{name}", ends[name])
                ends = ends.put(**{name: process.space.project(x1, clean.layouts[name])})  # type: ignore[union-attr, operator]
        return ends


@dataclass(frozen=True)
class _Factories:
    """Optimizer and scheduler factories; a copy of the module (weight averaging) shares them.

    Those that the command line makes refer to its parser, which cannot be copied in a distributed run.
    """

    optimizer: OptimizerFactory
    scheduler: SchedulerFactory | None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Factories:
        return self


class _Paired(Draws):
    """The normals that a coupling assigned to the samples."""

    def __init__(self, normals: Tensor) -> None:
        self.normals = normals

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        return self.normals

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        raise UserError("a coupling gives normals; this process draws uniforms")
