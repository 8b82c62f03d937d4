"""Runs of reward fine-tuning: Toy A, Lightning, what is watched, and the exact protein problem GB1."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import token_toy as toy
import torch
from reward_toy import (
    ALPHA,
    TEMPLATE,
    TableNetwork,
    ToyReward,
    denoiser,
    exact_objective,
    masked,
    objective,
    table_of,
    toy_model,
)
from stats import mean_z
from token_toy import F64
from torch import Tensor, nn

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.relaxation import StraightThrough
from sciflow.core.state import Layout, State
from sciflow.model import Model, load
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.any_order import AnyOrder
from sciflow.training.reward import HeldoutWatch, RewardFineTuning, fine_tune
from sciflow.training.reward_figures import diversity, finished_rewards, order_nll
from sciflow.training.reward_path import ExactPathKL, ScoreFunction


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


def tuned_objective(**options: Any) -> float:
    options = {"alpha": ALPHA, "template": TEMPLATE, "learning_rate": 0.05, "validation": 0, **options}
    model = toy_model()
    before = table_of(model.denoiser.network).detach().clone()
    tuned = fine_tune(model, ToyReward(), **options)
    assert torch.equal(table_of(model.denoiser.network), before)
    return float(exact_objective(table_of(tuned.denoiser.network).detach(), None))


@pytest.mark.slow
def test_stochastic_gradients_end_near_the_optimum():
    """From 0.7089 (pretrained) towards 1.3723 in 300 steps of 256 paths.

    Gaps at 400 steps: second order 0.001, straight-through at tau 1 0.07 and at 0.2 0.004, second order without the
    gradient through the frozen input 0.018.
    """
    common = {"steps": 300, "batch_size": 256, "learning_rate": 0.03}
    reached = {
        "second order": tuned_objective(**common),
        "straight-through 1": tuned_objective(relaxation=StraightThrough(1.0), **common),
        "blind": tuned_objective(divergence=ExactPathKL(through_frozen=False), **common),
        "REINFORCE": tuned_objective(grad_last=0, hard_moves=3, score_function=ScoreFunction(), **common),
    }
    print(reached)
    assert reached["second order"] > 1.367 and reached["REINFORCE"] > 1.35
    assert reached["straight-through 1"] < 1.34 and reached["blind"] < 1.362


def test_objective_rises_in_a_short_run():
    assert tuned_objective(steps=30, batch_size=64, learning_rate=0.1) > 1.1


def test_black_box_reward_with_the_score_function_only():
    calls = []

    def black_box(tokens: Tensor, sizes: Any = None) -> Any:
        calls.append(len(tokens))
        return toy.reward(tokens).numpy()

    with pytest.raises(UserError, match="'black_box' is not differentiable.*svdd"):
        fine_tune(toy_model(), black_box, alpha=ALPHA, steps=1, template=TEMPLATE)
    tuned = fine_tune(
        toy_model(),
        black_box,
        alpha=ALPHA,
        steps=2,
        batch_size=8,
        template=TEMPLATE,
        grad_last=0,
        score_function=ScoreFunction(),
        validation=0,
    )
    assert calls == [8, 8] and tuned.spec["fine_tuning"]["steps"] == 2


def test_lightning_accumulates_saves_and_resumes(tmp_path):
    from lightning.pytorch import Trainer

    def module() -> RewardFineTuning:
        return RewardFineTuning(
            toy_model(),
            ToyReward(),
            ALPHA,
            batch_size=16,
            template=TEMPLATE,
            heldout=ToyReward(),
            validation=32,
            epoch=4,
        )

    def trainer(epochs: int) -> Trainer:
        options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        options |= {"enable_checkpointing": False, "accelerator": "cpu", "gradient_clip_val": 1.0}
        return Trainer(max_epochs=epochs, accumulate_grad_batches=2, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, first = trainer(2), trainer(1)
        straight, halves, resumed = module(), module(), module()
        whole.fit(straight)
        first.fit(halves)
        first.save_checkpoint(tmp_path / "half.ckpt")
        trainer(2).fit(resumed, ckpt_path=str(tmp_path / "half.ckpt"), weights_only=True)
    assert whole.global_step == 4  # 8 batches, two per step
    ends = [one.model.denoiser.network.logits for one in (straight, resumed)]
    loaded = load(tmp_path / "half.ckpt").denoiser.network.logits  # loading goes through float32
    torch.testing.assert_close(loaded, halves.model.denoiser.network.logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ends[1], ends[0])
    assert torch.equal(resumed.frozen.network.logits, TableNetwork().logits)
    stored = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert all(name.startswith("model.") for name in stored["state_dict"])
    watched = {"reward", "heldout", "log_likelihood", "hamming", "distinct"}
    assert {f"val/{name}" for name in watched} <= set(whole.callback_metrics)


def test_dropout_stays_off():
    class WithDropout(TableNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

    model = Model({"seq": Masked(3)}, WithDropout(), SamplingPlan({"seq": AnyOrder()}, Uniform(1.0, 0.0), 3))
    module = RewardFineTuning(model, ToyReward(), ALPHA, template=TEMPLATE).train()
    assert module.training and not any(m.training for part in (module.model, module.frozen) for m in part.modules())
    assert not any(value.requires_grad for value in module.frozen.parameters())


class _Trainer:
    sanity_checking = should_stop = False
    callback_metrics: dict[str, float]


def test_watch_stops_when_the_heldout_reward_falls_while_the_reward_rises():
    watch, trainer, module = HeldoutWatch(patience=2), _Trainer(), nn.Linear(1, 1)

    def see(step: int, reward: float, heldout: float) -> None:
        module.weight.data.fill_(step)
        trainer.callback_metrics = {"val/reward": reward, "val/heldout": heldout, "val/heldout_error": 0.1}
        watch.on_validation_end(trainer, module)  # type: ignore[arg-type]

    for step, pair in enumerate([(0.0, 0.0), (1.0, 1.0), (1.5, 0.9), (1.2, 0.5), (1.3, 0.95), (1.6, 0.7)]):
        see(step, *pair)
        assert not trainer.should_stop
    with pytest.warns(UserWarning, match="held-out reward fell from 1 to 0.6 while the reward rose"):
        see(6, 1.7, 0.6)
    assert trainer.should_stop and module.weight.item() == 1.0


def test_watched_figures():
    """Order estimate of -log p: exact on average for the exact denoiser (z, 1e-5); diversity by hand."""
    x = toy.CLEAN.repeat(40, 1)
    state = State({"seq": x}, {"seq": Layout(len(x))})
    found = order_nll(denoiser(), "seq", state, Fresh(0), strata=3).reshape(40, 27)
    assert max(mean_z(found[:, k], -float(toy.LOG_PRE[k])) for k in range(27)) < 5.1  # 27 tests
    tokens = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 2]])
    assert diversity(tokens, Layout(4)) == {"distinct": 0.75, "hamming": pytest.approx((3 + 4) / 12)}
    padded = Layout(4, mask=torch.tensor([[1.0, 0.0]] * 4))
    assert diversity(tokens, padded) == {"distinct": 0.5, "hamming": pytest.approx(3 / 6)}
    assert finished_rewards(ToyReward(), toy.CLEAN, Layout(27), Masked(3)).tolist() == toy.REWARD.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_last": 0}, "grad_last: got 0, expected 1 to 8"),
        ({"grad_last": 9}, "grad_last: got 9"),
        ({"hard_moves": -1}, "hard_moves=-1"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        objective(8, **options)


def test_score_function_needs_two_samples():
    problem = objective(3, grad_last=0, score_function=ScoreFunction())
    with pytest.raises(UserError, match="at least 2 samples"):
        problem(denoiser(), denoiser(), "seq", masked(1), Fresh(0))


def test_fixed_tokens_stay():
    template = TEMPLATE.condition(fixed=torch.tensor([[-1, 2, -1]]))
    module = RewardFineTuning(toy_model(), ToyReward(), ALPHA, template=template, batch_size=20, moves=2)
    out = module.outcome("x", 0)
    assert (out.state["seq"][:, 1] == 2).all() and (out.state["seq"] < 3).all()


# ---------------------------------------------------------------- GB1 (R2): a real prior, a real reward, exact scores


@pytest.mark.slow
def test_gb1_reaches_95_percent_of_the_achievable(data_dir, monkeypatch):
    """alpha = 0.5: E r - alpha KL >= -0.0945, 95 % of the way from E_pre r = -1.012471 to alpha log Z = -0.046209.

    All 160,000 sequences are enumerated. Measured: 97.4 %.
    """
    from sciflow.domains.sequences.gb1 import TabularConditionals, read_table, sequence_law
    from sciflow.domains.sequences.rewards import load_reward

    monkeypatch.setenv("SCIFLOW_DATA", str(data_dir))
    torch.set_default_dtype(torch.float32)
    network, reward, alpha = TabularConditionals(), load_reward("gb1", "protein"), 0.5
    network.table.data = read_table(data_dir / "sequences" / "gb1_mpnn_denoiser.npz")
    plan = SamplingPlan({"seq": AnyOrder()}, Uniform(1.0, 0.0), 4, final="sample")
    template = State({"seq": torch.zeros(1, 4, dtype=torch.long)}, {"seq": Layout(1)})
    model = Model({"seq": Masked(20)}, network, plan)
    options = {"batch_size": 128, "learning_rate": 0.1, "template": template, "validation": 0}
    tuned = fine_tune(model, reward, alpha=alpha, steps=300, **options)
    values = torch.as_tensor(reward(torch.cartesian_prod(*[torch.arange(20)] * 4))).reshape([20] * 4)
    with torch.no_grad():
        before, after = sequence_law(network), sequence_law(tuned.denoiser.network)
    assert float((before * values).sum()) == pytest.approx(-1.012471, abs=1e-5)
    nats = float((after * (after / before).log()).nan_to_num(0).sum())
    assert float((after * values).sum()) - alpha * nats >= -0.0945
