"""Sampling to disk: shards as they are finished, resumable, one final file in the order of the sample indices.

The work is cut into batches that are a function of (number, seed, batch size); each finished batch is one file
`OUT.parts/batch-00042.safetensors`, written atomically. A restart does what is missing, and the final file does not
depend on how often the run was interrupted, nor on how many processes shared the work.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import sciflow
from sciflow.core.codec import Batch, batches_by_size
from sciflow.core.config import to_config
from sciflow.core.errors import UserError
from sciflow.core.files import replacing, write_text
from sciflow.model import Model
from sciflow.sampling import SamplingPlan


class Job:
    """A sampling run with its folder of parts.

    Args:
        model: The model.
        out: Final file; its parts lie beside it in `OUT.parts`.
        num: Number of samples.
        seed: Seed of the run.
        batch_size: Samples per batch.
        plan: Sampling plan.
        sizes: Numbers of nodes, one per sample; None draws them.

    Raises:
        UserError: The folder of parts belongs to a run with other settings, or `out` cannot be written.
    """

    def __init__(
        self,
        model: Model,
        out: Path,
        num: int,
        seed: int,
        batch_size: int,
        plan: SamplingPlan,
        sizes: Sequence[int] | None = None,
    ) -> None:
        if num < 1 or batch_size < 1:
            raise UserError(f"num and batch_size must be at least 1, got {num} and {batch_size}")
        self.model, self.out, self.seed, self.plan = model, Path(out), seed, plan
        self.num, self.parts = num, Path(f"{out}.parts")
        drawn = list(sizes) if sizes is not None else model.sizes(torch.arange(num), seed)
        self.batches: list[Batch] = batches_by_size(drawn, batch_size)
        self.settings = {
            "model": model.spec.get("name", "unnamed"),
            "sciflow": sciflow.__version__,
            "num": num,
            "seed": seed,
            "batch_size": batch_size,
            "steps": plan.steps,
            "solvers": {name: type(solver).__name__ for name, solver in plan.solvers.items()},
            "torch": torch.__version__,
        }
        fixed = json.dumps([self.settings, drawn, plan_digest(plan), weights_digest(model)], sort_keys=True)
        self.fingerprint = hashlib.sha256(fixed.encode()).hexdigest()

    def open(self) -> None:
        """Create the folder of parts, or check that the one there belongs to this run."""
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to '{self.out.parent}': {error.strerror}; choose another --out") from error
        note = self.parts / "run.json"
        text = json.dumps({**self.settings, "fingerprint": self.fingerprint}, indent=1)
        begun = any(self.parts.glob("batch-*.safetensors"))  # a run that failed before its first batch binds nobody
        if begun and (not note.exists() or note.read_text() != text):
            raise UserError(
                f"'{self.parts}' holds an unfinished run with other settings (model, seed, num, batch size, steps "
                "or solver); repeat that command, choose another --out, or delete the folder"
            )
        if not begun:
            write_text(note, text)

    def path(self, number: int) -> Path:
        """File of one batch."""
        return self.parts / f"batch-{number:05d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the batches that are not on disk yet."""
        return [i for i in range(len(self.batches)) if not self.path(i).exists()]

    def generate(self, number: int) -> None:
        """Sample one batch and write it."""
        from safetensors.torch import save_file

        batch = self.batches[number]
        state = self.model.generate(torch.tensor(batch.samples), self.seed, sizes=batch.sizes, plan=self.plan)
        with replacing(self.path(number)) as temporary:
            save_file({name: x.cpu().contiguous() for name, x in state.fields.items()}, temporary)

    def objects(self) -> list[Any]:
        """All samples decoded, in the order of their indices."""
        from safetensors.torch import load_file

        result: list[Any] = [None] * self.num
        codec = self.model.codec
        assert codec is not None
        for number, batch in enumerate(self.batches):
            try:
                fields = load_file(self.path(number))
            except Exception as error:  # safetensors raises several types
                raise UserError(
                    f"'{self.path(number)}' is damaged ({error}); delete it and run the command again"
                ) from None
            state = codec.template(batch.sizes).put(**fields)
            for i, item in zip(batch.samples, codec.to_objects(state), strict=True):
                result[i] = item
        return result

    def finish(self, write: Callable[[Path, Sequence[Any], dict[str, Any]], None]) -> list[Any]:
        """Decode, write the final file with `write(path, objects, settings)`, remove the parts; returns the objects."""
        objects = self.objects()
        write(self.out, objects, self.settings)
        shutil.rmtree(self.parts)
        return objects


def plan_digest(plan: SamplingPlan) -> str:
    """Text that changes with anything in the plan, defaults filled in."""
    parts = (plan.solvers, plan.correct, plan.grid, plan.steps, plan.n_correct, plan.final)
    return json.dumps([to_config(part) for part in parts], sort_keys=True)


def weights_digest(model: Model) -> str:
    """Hash of the weights, so that parts of another checkpoint are not mixed in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
