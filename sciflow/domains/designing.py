"""Design towards a reward, always with a best-of-N of equal budget beside it: what molecules and sequences share.

Guidance spends network calls on its candidates. The honest alternative is to draw that many more unguided samples and
keep the best: per design, best of N with N = (network rows of the guided run) / (network rows of an unguided run). A
row is one evaluation of the network on one sample; rows that a cache answers cost nothing and are not counted. Reward
calls are counted too; guidance usually needs far more.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.codec import Batch, batches_by_size
from sciflow.core.errors import UserError
from sciflow.core.files import write_text
from sciflow.core.hooks import Hook, Transition
from sciflow.core.state import State

Guide = Callable[[Callable[[State], Tensor]], Hook]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Designs:
    """Samples made by one method.

    Attributes:
        records: What the domain decodes, one per design.
        rewards: (num,) float64.
        samples: (num,) index of the sample each design came from.
        network_rows: Network evaluations on single samples, all together.
        reward_calls: Objects that were scored, repeats included.
        seconds: Wall time.
    """

    records: list[Any]
    rewards: np.ndarray
    samples: np.ndarray
    network_rows: int
    reward_calls: int
    seconds: float


@dataclass(frozen=True)
class Task:
    """What a domain's samples are and what they are worth.

    Attributes:
        decode: State -> records, one per sample.
        score: Records -> rewards (N,).
        value: Clean state -> rewards (B,), for guidance.
    """

    decode: Callable[[State], list[Any]]
    score: Callable[[list[Any]], np.ndarray]
    value: Callable[[State], Tensor]


@dataclass(frozen=True)
class Way:
    """How designs are made, where it is not best-of-N.

    Attributes:
        name: Of the method, for tables.
        guide: Makes the guidance from a reward of states; None: samples of `model` as they come.
        group: Samples that must run together (the particles of SMC); the number of samples is rounded up to groups.
        model: Model to sample from; None: the one that is asked. A fine-tuned one for DRAKES.
        rows: Network rows that were spent on `model` before; they count as cost of the designs.
        calls: Reward calls, likewise.
        seconds: Wall time, likewise.
    """

    name: str = "guided"
    guide: Guide | None = None
    group: int = 1
    model: Any = None
    rows: int = 0
    calls: int = 0
    seconds: float = 0.0


class Shelf:
    """Finished batches of a run on disk, ``FOLDER/<stage>-00042.json``: a failure loses none, a restart goes on.

    Args:
        folder: Made on first use.
        settings: Everything the batches depend on, plain JSON.

    Raises:
        UserError: The folder holds batches of a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.text = json.dumps(settings, indent=1, sort_keys=True)
        note = folder / "run.json"
        if any(folder.glob("*-*.json")) and (not note.exists() or note.read_text() != self.text):
            raise UserError(
                f"'{folder}' holds an unfinished run with other settings; repeat that command, choose another --out, "
                "or delete the folder"
            )

    def get(self, stage: str, number: int) -> dict[str, Any] | None:
        """A stored batch, or None."""
        path = self.path(stage, number)
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise UserError(f"'{path}' is damaged ({error}); delete it and run the command again") from None

    def put(self, stage: str, number: int, content: Mapping[str, Any]) -> None:
        """Store a batch."""
        if not (self.folder / "run.json").exists():
            write_text(self.folder / "run.json", self.text)
        write_text(self.path(stage, number), json.dumps(content))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def finished(self) -> int:
        """Number of stored batches."""
        return sum(1 for _ in self.folder.glob("*-*.json"))

    def path(self, stage: str, number: int) -> Path:
        """File of a batch."""
        return self.folder / f"{stage.replace(' ', '_')}-{number:05d}.json"


class Runner:
    """Generates samples with one plan, scores them and counts what they cost.

    Args:
        model: The unguided model.
        plan: How to sample.
        task: The domain's part.
        seed: Sample i depends on (seed, i) only, or on its group.
        batch_size: Rows of the network at a time, about.
        progress: Called with (stage, share done).
        shelf: Keeps finished batches; the records must then be plain JSON.
        template: Sizes -> state with conditions, in place of the codec's.
        size: One size for all samples; None: drawn from the model's histogram.
    """

    def __init__(
        self,
        model: Any,
        plan: Any,
        task: Task,
        seed: int,
        batch_size: int,
        progress: Progress = lambda stage, done: None,
        shelf: Shelf | None = None,
        template: Callable[[Sequence[int]], State] | None = None,
        size: int | None = None,
    ) -> None:
        self.model, self.plan, self.task, self.seed, self.batch_size = model, plan, task, seed, batch_size
        self.progress, self.shelf, self.template, self.size = progress, shelf, template, size

    def generate(self, stage: str, samples: range, way: Way | None = None) -> Designs:
        """These samples, each once; of incomplete groups the rest is made too, and left out."""
        way = way if way is not None else Way()
        wanted = len(samples)
        samples = range(samples.start, samples.start - (-wanted // way.group) * way.group)
        parts: list[dict[str, Any]] = []
        done = 0
        for number, batch in enumerate(self._batches(samples, way)):
            part = self.shelf.get(stage, number) if self.shelf is not None else None
            if part is None:
                report = functools.partial(self._report, stage, len(samples), done, len(batch.samples))
                with self._noted():
                    part = self._batch(batch, way, report)
                if self.shelf is not None:
                    self.shelf.put(stage, number, part)
            parts.append(part)
            done += len(batch.samples)
        records, rewards = {}, {}
        for part in parts:
            records.update(zip(part["samples"], part["records"], strict=True))
            rewards.update(zip(part["samples"], part["rewards"], strict=True))
        cost = [sum(part[name] for part in parts) for name in ("rows", "calls", "seconds")]
        kept = samples[:wanted]
        return Designs(
            [records[i] for i in kept],
            np.array([rewards[i] for i in kept], dtype=np.float64),
            np.array(kept),
            cost[0] + way.rows,
            cost[1] + way.calls,
            cost[2] + way.seconds,
        )

    def _batches(self, samples: range, way: Way) -> list[Batch]:
        """Groups of similar size together, about `batch_size` network rows in each batch."""
        heads = [samples[i] for i in range(0, len(samples), way.group)]
        sizes = [self.size] * len(heads) if self.size is not None else self.model.sizes(torch.tensor(heads), self.seed)
        rows = 1 if way.guide is None else max(way.guide(lambda clean: torch.zeros(clean.batch)).candidates, 1)
        groups = batches_by_size(sizes, max(self.batch_size // (rows * way.group), 1))
        return [
            Batch(
                [heads[i] + j for i in group.samples for j in range(way.group)],
                [size for size in group.sizes for _ in range(way.group)],
            )
            for group in groups
        ]

    def _report(self, stage: str, total: int, done: int, now: int, share: float) -> None:
        self.progress(stage, (done + share * now) / total)

    def _batch(self, batch: Batch, way: Way, report: Callable[[float], None]) -> dict[str, Any]:
        """One batch: samples, records, rewards, and what they cost."""
        start, calls = time.perf_counter(), len(batch.samples)

        def value(clean: State) -> Tensor:
            nonlocal calls
            calls += clean.batch
            return self.task.value(clean)

        hooks: list[Hook] = [] if way.guide is None else [way.guide(value)]
        model = way.model if way.model is not None else self.model
        with counted_rows(model) as rows:
            state = model.generate(
                torch.tensor(batch.samples),
                self.seed,
                sizes=batch.sizes,
                plan=self.plan,
                hooks=[*hooks, _Report(report, self.plan.steps)],
                template=None if self.template is None else self.template(batch.sizes),
            )
        records = self.task.decode(state)
        rewards = self.task.score(records)
        return {
            "samples": batch.samples,
            "records": records,
            "rewards": rewards.tolist(),
            "rows": rows(),
            "calls": calls,
            "seconds": time.perf_counter() - start,
        }

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Errors say where the finished batches are."""
        try:
            yield
        except Exception as error:
            if self.shelf is None or not self.shelf.finished():
                raise
            note = (
                f"finished designs ({self.shelf.finished()} batches) are kept in '{self.shelf.folder}' and the same "
                "command goes on from there"
            )
            if isinstance(error, UserError):
                raise UserError(f"{error}; {note}") from error
            error.add_note(note)
            raise


@contextmanager
def counted_rows(model: Any) -> Iterator[Callable[[], int]]:
    """Within the block: how many rows the network of a model has really evaluated, whoever asked for them."""
    count = 0

    def count_rows(module: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        count += arguments[0].batch

    handle = model.denoiser.network.register_forward_pre_hook(count_rows)
    try:
        yield lambda: count
    finally:
        handle.remove()


class _Report(Hook):
    """Reports progress."""

    def __init__(self, report: Callable[[float], None], steps: int) -> None:
        self.report, self.steps = report, steps

    def after(self, state: State, kernels: Any, transition: Transition) -> State:
        """Report how far the batch is."""
        self.report((transition.move.index + 1) / self.steps)
        return state


def designs_and_baselines(
    run: Runner, num: int, way: Way | None, candidates: int, most: int = 1000
) -> tuple[str, Designs, dict[str, Designs]]:
    """Designs by one way, and beside them what plain sampling gives at no and at equal extra cost.

    Args:
        run: Where samples come from.
        num: Number of designs.
        way: How; None: best of `candidates` samples each.
        candidates: Samples per design without `way`.
        most: Upper bound of N of the best-of-N beside the designs.

    Returns:
        Name of the method, its designs, and the others by name: ``unguided`` and, for a run that cost more,
        ``best_of_N``.
    """
    if way is None:
        pool = run.generate("best of N", range(num * candidates))
        return f"best_of_{candidates}", best_of(pool, num), {"unguided": first(pool, num)}
    chosen = run.generate("guided", range(num), way)
    unguided = run.generate("unguided", range(num))
    total = min(max(round(chosen.network_rows / max(unguided.network_rows, 1) * num), num), most * num)
    baselines = {"unguided": unguided}
    if total > num:
        pool = joined(unguided, run.generate("best of N", range(num, total)))
        baselines[f"best_of_{total / num:.3g}"] = best_of(pool, num)
    return way.name, chosen, baselines


def best_of(pool: Designs, num: int) -> Designs:
    """The best of the samples i, i + num, i + 2 num, ... for each design i; NaN is the worst."""
    rewards = np.where(np.isnan(pool.rewards), -np.inf, pool.rewards)
    groups = [range(i, len(pool.records), num) for i in range(num)]
    return _picked(pool, [max(group, key=lambda j: rewards[j]) for group in groups])


def _picked(pool: Designs, index: Sequence[int]) -> Designs:
    records = [pool.records[j] for j in index]
    chosen = list(index)
    return Designs(
        records, pool.rewards[chosen], pool.samples[chosen], pool.network_rows, pool.reward_calls, pool.seconds
    )


def first(pool: Designs, num: int) -> Designs:
    """The first samples of a pool, with their share of its cost."""
    share = num / len(pool.records)
    part = _picked(pool, range(num))
    cost = (round(pool.network_rows * share), round(pool.reward_calls * share), pool.seconds * share)
    return Designs(part.records, part.rewards, part.samples, *cost)


def joined(one: Designs, rest: Designs) -> Designs:
    """Both, with their cost."""
    return Designs(
        [*one.records, *rest.records],
        np.concatenate([one.rewards, rest.rewards]),
        np.concatenate([one.samples, rest.samples]),
        one.network_rows + rest.network_rows,
        one.reward_calls + rest.reward_calls,
        one.seconds + rest.seconds,
    )


def check_numbers(**numbers: int) -> None:
    """Refuse numbers below 1 by name."""
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{name}: got {number}, expected at least 1")
