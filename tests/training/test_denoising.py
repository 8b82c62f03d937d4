"""Training: exact resumption, checkpoints that need nothing else, averaging that leaves buffers alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from toy import ToyNetwork, processes, write_smiles

from sciflow.core.coupling import squared_distances
from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh
from sciflow.core.spaces import SymmetricMatrix
from sciflow.core.state import Layout, State
from sciflow.couplings.assignment import Assignment
from sciflow.couplings.independent import Independent
from sciflow.domains.molecules.datamodule import MoleculeData
from sciflow.model import load
from sciflow.objectives.cross_entropy import CrossEntropy
from sciflow.objectives.interpolant import InterpolantMatching
from sciflow.objectives.regression import Regression
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.euler_ode import EulerODE
from sciflow.training.callbacks import EMA
from sciflow.training.denoising import Denoising


def module(**changes) -> Denoising:
    torch.manual_seed(1)
    arguments = {
        "processes": processes(),
        "network": ToyNetwork(),
        "objectives": {"x": CrossEntropy(), "adj": CrossEntropy()},
        "sampling": SamplingPlan({"x": Ancestral(), "adj": Ancestral()}, steps=5),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    }
    return Denoising(**{**arguments, **changes})


def data(folder: Path, **changes) -> MoleculeData:
    return MoleculeData(str(write_smiles(folder)), validation=0.1, test=0.1, **{"batch_size": 4, **changes})


def fit(folder: Path, epochs: int, resume: Path | None = None) -> Path:
    """Train; returns the checkpoint written at the end of the last epoch."""
    checkpoint = ModelCheckpoint(folder, filename=f"{epochs}", save_on_train_epoch_end=True)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[EMA(0.9), checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module(), data(folder), ckpt_path=resume)
    return folder / f"{epochs}.ckpt"


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, Path]:
    """Checkpoint after 4 epochs, and after 2 + 2 resumed ones."""
    whole, halves = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("halves")
    return fit(whole, 4), fit(halves, 4, resume=fit(halves, 2))


def test_resumed_training_is_bit_identical(straight) -> None:
    one, two = (torch.load(path, weights_only=True) for path in straight)
    for part in ("state_dict", "current_model_state"):  # averaged and raw weights
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])


def test_averaging_leaves_integer_buffers_and_differs_from_raw(straight) -> None:
    checkpoint = torch.load(straight[0], weights_only=True)
    name = "model.denoiser.network.table"
    assert checkpoint["state_dict"][name].tolist() == [1, 6, 7, 53]
    weight = "model.denoiser.network.node.0.weight"
    assert not torch.equal(checkpoint["state_dict"][weight], checkpoint["current_model_state"][weight])


def test_checkpoint_alone_samples_with_averaged_weights(straight) -> None:
    model = load(straight[0])
    stored = torch.load(straight[0], weights_only=True)["state_dict"]["model.denoiser.network.node.0.weight"]
    assert torch.equal(model.denoiser.network.node[0].weight, stored)
    assert len(model.sample(3, seed=1)) == 3
    assert model.spec["domain"] == "molecules" and sum(model.spec["sizes"].values()) > 0


def test_training_noise_depends_on_step_and_rank_only(tmp_path) -> None:
    one, batch = module(), data(tmp_path)
    batch.setup("fit")
    state = batch.samples["train"].batch([0, 1])
    draw = [
        one._noise(label, state).normal(state["x"], state.layouts["x"]) for label in ("train/0", "train/0", "train/1")
    ]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_losses_are_per_sample_and_do_not_depend_on_padding(tmp_path) -> None:
    """With given clocks and noise a sample's loss is the same alone and beside a larger one."""
    training, source = module(), data(tmp_path)
    source.setup("fit")
    training.model.denoiser.network.build(source.features)
    samples = source.samples["train"]
    order = sorted(range(len(samples)), key=lambda i: samples.sizes[i])
    small, large = order[0], order[-1]
    together = samples.batch([small, large])
    t = torch.tensor([0.3, 0.3])
    losses = training.losses(together, Fresh(0), t)
    assert losses["x"].shape == (2,) and bool((losses["x"] > 0).all())
    n = samples.sizes[small]
    alone = samples.batch([small])
    training.model.processes["x"].marginal(alone["x"], t[:1], alone.layouts["x"])
    noised = {name: together[name][:1] for name in ("x", "adj")}
    assert torch.equal(noised["x"][:, :n], alone["x"])  # same clean data, so the masked objective must agree
    pred_together = training.model.denoiser(together, {"x": t, "adj": t})
    pred_alone = training.model.denoiser(alone, {"x": t[:1], "adj": t[:1]})
    assert torch.allclose(pred_together["x"].value[:1, :n], pred_alone["x"].value, atol=1e-6)


def test_coupling_permutes_the_noise(tmp_path) -> None:
    """With an assignment the multiset of noise is unchanged, it lies in the space, and it comes closer to the data."""
    source = data(tmp_path, batch_size=8)
    source.setup("fit")
    batch = source.samples["train"].batch(range(8))
    objectives = {"x": Regression("noise"), "adj": Regression("noise")}
    assert module(objectives=objectives)._prior_ends(batch, Fresh(5)) is None
    independent = module(objectives=objectives, coupling=Independent())._prior_ends(batch, Fresh(5))
    assigned = module(objectives=objectives, coupling=Assignment())._prior_ends(batch, Fresh(5))
    for name in ("x", "adj"):
        sums = [ends[name].flatten(1).sum(1).sort()[0] for ends in (independent, assigned)]
        assert torch.equal(*sums)
    assert torch.equal(assigned["adj"], assigned["adj"].transpose(1, 2))
    distance = [squared_distances(batch, ends).sqrt().diagonal().sum() for ends in (independent, assigned)]
    assert distance[1] < distance[0]


def test_interpolants_train_on_given_or_drawn_prior_ends() -> None:
    """x1 of paired data is used as it is; without pairs it is drawn in the space, symmetric and masked."""
    training = Denoising(
        {"adj": StochasticInterpolant(space=SymmetricMatrix())},
        torch.nn.Identity(),
        {"adj": InterpolantMatching()},
        SamplingPlan({"adj": EulerODE()}),
    )
    mask = torch.ones(2, 3, 3) - torch.eye(3)
    mask[1, 2] = mask[1, :, 2] = 0
    clean = State({"adj": torch.zeros(2, 3, 3)}, {"adj": Layout(2, mask=mask, sizes=(3, 2))})
    drawn = training._prior_ends(clean, Fresh(0))["adj"]
    assert torch.equal(drawn, drawn.transpose(1, 2)) and bool((drawn[1, 2] == 0).all()) and bool((drawn[0] != 0).any())
    given = torch.arange(18.0).reshape(2, 3, 3)
    paired = training._prior_ends(clean.condition(**{"x1:adj": given}), Fresh(0))["adj"]
    assert torch.equal(paired, SymmetricMatrix().project(given, clean.layouts["adj"]))


def test_non_finite_loss_stops_with_advice(tmp_path) -> None:
    training = module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    trainer = Trainer(max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    source = data(tmp_path)
    source.setup("fit")
    training.model.denoiser.network.build(source.features)
    training.model.codec = source.codec
    steps = []

    def poison(*arguments) -> None:
        steps.append(training.global_step)
        if training.global_step == 2:
            with torch.no_grad():
                training.model.denoiser.network.node[0].weight.fill_(float("nan"))

    training.on_train_batch_end = poison
    with pytest.raises(UserError, match="NaN or infinite at or before step 2"):
        trainer.fit(training, source)
    with pytest.raises(UserError, match="last checkpoint is kept"):  # a diverged run never overwrites a good checkpoint
        training.on_save_checkpoint({})


def test_objectives_must_match_fields() -> None:
    with pytest.raises(UserError, match="one objective per field"):
        module(objectives={"x": CrossEntropy()})
