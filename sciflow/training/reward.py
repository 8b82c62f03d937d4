r"""Reward fine-tuning of masked diffusion (DRAKES: Wang et al., ICLR 2025, arXiv 2410.13643).

A pretrained model is tuned towards max E r(x0) - alpha KL(P_theta || P_pre); `reward_path` holds the mathematics. The
optimum draws x0 from p_pre(x0) exp(r(x0)/alpha)/Z: alpha is the price of a nat in units of the reward.

    tuned = fine_tune(model, reward, alpha=0.5, steps=500)          # a script
    Trainer(...).fit(RewardFineTuning("gb1-mpnn", reward, alpha=0.5))   # Lightning: checkpoints, loggers, devices

A reward that is optimised is a reward that is exploited: give a held-out one, which is only watched (`HeldoutWatch`).
"""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader

from sciflow.core.errors import UserError
from sciflow.core.grids import Grid, Uniform
from sciflow.core.noise import Fresh
from sciflow.core.relaxation import Relaxation
from sciflow.core.solver import Solver
from sciflow.core.state import State
from sciflow.model import Model, load
from sciflow.sampling import SamplingPlan
from sciflow.training.reward_figures import differentiable_reward, diversity, finished_rewards, order_nll
from sciflow.training.reward_path import (
    Outcome,
    PathDivergence,
    PathObjective,
    ScoreFunction,
    only_masked_field,
)

Progress = Callable[[str, float], None]
PUBLISHED_K = 50


class RewardFineTuning(LightningModule):
    """Lightning module that tunes a model towards a reward. It makes its own batches: no data module.

    One batch is `batch_size` paths; gradients of several are added by the trainer (`accumulate_grad_batches`), which
    also clips them (`gradient_clip_val`, 1 in the publication). Both networks stay in evaluation mode (no dropout).

    Args:
        model: Pretrained model, or its name or file. It is copied, not changed.
        reward: Differentiable: has `differentiable = True` and maps relaxed tokens (B, L, K) to (B,), by
            `score(x, mask)` or by being called.
        alpha: Price of one nat of divergence, in units of the reward.
        heldout: Another reward that is only watched: differentiable as above, or called with tokens (B, L) and lengths.
        moves: Number of moves N of the sampler; None: the model's.
        grad_last: K, gradients flow through the last K moves; None: 50, as published, or all if there are fewer.
        hard_moves: How many of the first N - K moves enter the divergence.
        relaxed_moves: How many of the last K moves do.
        batch_size: Paths per batch.
        solver: Of the field; None: the model's.
        grid: Where the moves lie; None: equal steps from 1 to 0.
        relaxation: How relaxed tokens are drawn; None: the process's.
        divergence: Of the paths; None: `ExactPathKL`.
        score_function: Gradient through the first moves; None: left out, as published.
        recompute: Recompute each relaxed move in the backward pass: memory of one move instead of K for about a third
            more time.
        template: State of one sample whose layouts, conditions and fixed tokens all samples have (a backbone); None:
            the model's codec and sizes.
        optimizer: Parameters -> optimizer.
        scheduler: Optimizer -> learning-rate scheduler, stepped every optimiser step; None: constant.
        epoch: Batches between two validations.
        validation: Samples per validation; 0: none.
        seed: Of all random numbers.
    """

    def __init__(
        self,
        model: Model | str,
        reward: Any,
        alpha: float,
        *,
        heldout: Any = None,
        moves: int | None = None,
        grad_last: int | None = None,
        hard_moves: int = 4,
        relaxed_moves: int = 12,
        batch_size: int = 32,
        solver: Solver | None = None,
        grid: Grid | None = None,
        relaxation: Relaxation | None = None,
        divergence: PathDivergence | None = None,
        score_function: ScoreFunction | None = None,
        recompute: bool = True,
        template: State | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        epoch: int = 50,
        validation: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        source = load(model) if isinstance(model, str) else model
        self.model, self.frozen = copy.deepcopy(source), copy.deepcopy(source.denoiser)
        self.frozen.requires_grad_(False)
        self.field = only_masked_field(self.model.processes)
        process: Any = self.model.processes[self.field]
        if relaxation is not None:
            process.relaxation = relaxation
        own = self.model.sampling
        moves = own.steps if moves is None else moves
        plan = SamplingPlan(
            {self.field: solver if solver is not None else own.solvers[self.field]},
            grid if grid is not None else Uniform(1.0, 0.0),
            moves,
            final="sample",
        )
        self.objective = PathObjective(
            differentiable_reward(reward, needed=grad_last != 0),
            alpha,
            plan,
            grad_last=min(moves, PUBLISHED_K) if grad_last is None else grad_last,
            hard_moves=hard_moves,
            relaxed_moves=relaxed_moves,
            divergence=divergence,
            score_function=score_function,
            recompute=recompute,
        )
        self.reward, self.heldout, self.template = reward, heldout, template
        self.batch_size, self.seed = batch_size, seed
        self.optimizer, self.scheduler = optimizer, scheduler
        self.epoch, self.validation = epoch, validation
        self.train()

    def train(self, mode: bool = True) -> RewardFineTuning:
        """Dropout and batch normalisation stay off: they would make a difference between the two networks."""
        super().train(mode)
        for part in self.children():  # rewards that are modules are parts too
            part.eval()
        return self

    def start(self, samples: Tensor, noise: Fresh) -> State:
        """Masked states for these sample numbers, known tokens in place."""
        if self.template is not None:
            template = self.template.repeat(len(samples))
        elif self.model.codec is not None:
            template = self.model.codec.template(self.model.sizes(samples.cpu(), self.seed))
        else:
            raise UserError("this model has no codec: give a `template`, a state with one sample")
        template = template.to(self.device)
        sampler = self.objective.plan.sampler(self.model.processes)
        state = sampler.prior(template, noise)
        if "fixed" in state.cond:
            fixed = state.cond["fixed"]
            state = state.put(**{self.field: torch.where(fixed < 0, state[self.field], fixed)})
        return state

    def outcome(self, label: str, first: int) -> Outcome:
        """Paths of one batch."""
        noise = self._noise(label)
        start = self.start(torch.arange(first, first + self.batch_size), noise)
        return self.objective(self.model.denoiser, self.frozen, self.field, start, noise)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch of paths."""
        number = self.current_epoch * self.epoch + batch_idx
        out = self.outcome(f"train/{number}", number * self.batch_size)
        if not bool(torch.isfinite(out.loss)):
            raise UserError(
                f"the loss became NaN or infinite at batch {number}; lower the learning rate, clip gradients "
                "(gradient_clip_val), or look for a reward that is not finite"
            )
        values = {"train/loss": out.loss, "train/reward": out.reward.mean(), "train/kl": out.kl.mean()}
        self.log_dict(values, batch_size=self.batch_size, sync_dist=True, on_step=False, on_epoch=True)
        return out.loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Rewards, pretrained log-likelihood and diversity of fresh samples; the same random numbers each time."""
        noise = self._noise("validation")
        start = self.start(torch.arange(self.validation), noise)
        sampler = self.objective.plan.sampler(self.model.processes)
        state = sampler.run(start, self.model.denoiser, noise, steps=self.objective.plan.steps).state
        for name, value in self.figures(state).items():
            self.log(f"val/{name}", value, batch_size=self.validation, sync_dist=True)

    @torch.no_grad()
    def figures(self, state: State) -> dict[str, float]:
        """What is watched, of finished samples: rewards, log-likelihood [nats per sequence], diversity."""
        x, layout = state[self.field], state.layouts[self.field]
        found = {"reward": finished_rewards(self.reward, x, layout, self.model.processes[self.field])}
        if self.heldout is not None:
            found["heldout"] = finished_rewards(self.heldout, x, layout, self.model.processes[self.field])
        values = {name: float(value.mean()) for name, value in found.items()}
        if self.heldout is not None:
            values["heldout_error"] = float(found["heldout"].std() / len(x) ** 0.5)
        values["log_likelihood"] = -float(order_nll(self.frozen, self.field, state, self._noise("likelihood")).mean())
        return values | diversity(x, layout)

    def train_dataloader(self) -> DataLoader:
        """`epoch` empty batches."""
        return DataLoader(range(self.epoch))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        """One empty batch."""
        return DataLoader(range(1 if self.validation else 0))  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        """Of the parameters of the tuned network that are not frozen."""
        optimizer = self.optimizer(value for value in self.model.parameters() if value.requires_grad)
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what rebuilds the tuned model, without the pretrained one."""
        checkpoint["sciflow"] = self.model.config()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name.startswith("model.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the pretrained weights back in, which are those this module was built with."""
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def _noise(self, label: str) -> Fresh:
        digest = hashlib.blake2b(f"{self.seed}/{self.global_rank}/{label}".encode(), digest_size=7).digest()
        return Fresh(int.from_bytes(digest, "little"), self.device)


class HeldoutWatch(Callback):
    """Warns, or stops and goes back, when the held-out reward falls while the reward rises (reward hacking).

    That is: for `patience` validations in a row the held-out mean lies more than two standard errors below its best,
    and the reward at or above its value there.

    Args:
        patience: Validations in a row.
        stop: End the run and put the weights of the best validation back; else only warn.
    """

    def __init__(self, patience: int = 3, stop: bool = True) -> None:
        self.patience, self.stop = patience, stop
        self.best: tuple[float, float, dict[str, Tensor]] | None = None
        self.falls, self.warned = 0, False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the best validation so far."""
        seen = trainer.callback_metrics
        if "val/heldout" not in seen or trainer.sanity_checking:
            return
        heldout, reward, error = (float(seen[f"val/{name}"]) for name in ("heldout", "reward", "heldout_error"))
        if self.best is None or heldout > self.best[0]:
            weights = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}
            self.best, self.falls = (heldout, reward, weights), 0
            return
        self.falls = self.falls + 1 if heldout < self.best[0] - 2 * error and reward >= self.best[1] else 0
        if self.falls < self.patience or self.warned:
            return
        self.warned = True
        warnings.warn(
            f"the held-out reward fell from {self.best[0]:.4g} to {heldout:.4g} while the reward rose from "
            f"{self.best[1]:.4g} to {reward:.4g}: the reward is being exploited"
            + ("; stopped, weights of the best held-out reward are back" if self.stop else "; raise alpha or stop"),
            stacklevel=2,
        )
        if self.stop:
            pl_module.load_state_dict(self.best[2])
            trainer.should_stop = True


def fine_tune(
    model: Model,
    reward: Any,
    *,
    alpha: float,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    rounds: int = 1,
    heldout: Any = None,
    moves: int | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, done: None,
    **options: Any,
) -> Model:
    """A tuned copy of a model: `RewardFineTuning` with a quiet trainer on one device.

    Args:
        model: Pretrained model.
        reward: Differentiable reward, see `RewardFineTuning`.
        alpha: Price of one nat of divergence from the model, in units of the reward.
        steps: Optimiser steps.
        batch_size: Paths per batch.
        learning_rate: Of Adam, at the start; it falls linearly to zero.
        rounds: Batches whose gradients are averaged per step.
        heldout: Reward that is only watched; the run stops when it falls while the reward rises.
        moves: Moves of the sampler; None: the model's.
        seed: Of all random numbers.
        progress: Called with (stage, share done).
        options: Further arguments of `RewardFineTuning`.

    Returns:
        The tuned model; its spec has "fine_tuning": alpha, steps taken and the figures of each validation.

    Raises:
        UserError: The reward is not differentiable, or the model has no masked field.
    """
    epoch = options.pop("epoch", max(steps * rounds // 20, 1))
    module = RewardFineTuning(
        model,
        reward,
        alpha,
        heldout=heldout,
        moves=moves,
        batch_size=batch_size,
        seed=seed,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=learning_rate),
        scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0)),
        epoch=epoch,
        **options,
    )
    report, device = _Report(steps, progress), next(model.parameters()).device
    with _quiet():
        trainer = Trainer(
            max_steps=steps,
            accumulate_grad_batches=rounds,
            gradient_clip_val=1.0,
            accelerator=device.type if device.type != "cuda" else "gpu",
            devices=1 if device.index is None else [device.index],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[report, *([HeldoutWatch()] if heldout is not None else [])],
        )
        trainer.fit(module)
    tuned = module.model.to(device).eval()
    tuned.spec["fine_tuning"] = {"alpha": alpha, "steps": trainer.global_step, "validation": report.history}
    return tuned


class _Report(Callback):
    """Progress and the figures of the validations."""

    def __init__(self, steps: int, progress: Progress) -> None:
        self.steps, self.progress, self.history = steps, progress, []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.progress("fine-tuning", trainer.global_step / self.steps)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        figures = {
            k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")
        }
        self.history.append({"step": trainer.global_step, **figures})


class _quiet:
    """Lightning's remarks on devices and workers off; warnings of ours stay."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("lightning.pytorch")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*(does not have many workers|treespec, LeafSpec|GPU available).*")

    def __exit__(self, *error: Any) -> None:
        self.caught.__exit__(*error)
        self.logger.setLevel(self.level)
