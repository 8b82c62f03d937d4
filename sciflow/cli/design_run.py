"""One design run of sequences or proteins: from a model and options to files."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError


def check_targets(arguments: argparse.Namespace) -> None:
    """Refuse files that cannot be written."""
    from sciflow.core.files import check_writable
    from sciflow.writers import check_ending

    check_ending("sequences", arguments.out, arguments.num)
    for target in (arguments.out, arguments.report):
        if target is not None:
            check_writable(target)


def execute(
    model: Any,
    arguments: argparse.Namespace,
    *,
    title: str,
    prior: Any = None,
    fixed: Any = None,
    native: str | None = None,
) -> None:
    """Design, print, write.

    Args:
        model: What is sampled from.
        arguments: Options.
        title: Of the report.
        prior: Model of the log-likelihoods; None: `model`.
        fixed: (L,) given tokens, -1 where free; None: all are free.
        native: Native sequence, for recovery.
    """
    import torch

    from sciflow.cli.bars import stage_bars
    from sciflow.cli.design_methods import candidates_of, way_of
    from sciflow.domains.designing import Shelf
    from sciflow.domains.sequences.design import alphabet_of_model, any_order_plan, design_sequences, prior_likelihood

    alphabet = alphabet_of_model(model)
    length = len(fixed) if fixed is not None else getattr(model.codec, "length", None)
    reward, heldout = (judge(spec, alphabet.name, length) for spec in (arguments.reward, arguments.heldout))
    plan = any_order_plan(model, arguments.steps, fixed)
    free = any_order_plan(model, None, fixed).steps
    candidates = candidates_of(arguments, len(alphabet), free, arguments.steps)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = (model if prior is None else prior).to(device)
    model.to(device)
    shelf = Shelf(Path(f"{arguments.out}.parts"), fingerprint(model, arguments))
    settings = run_settings(model, arguments, plan, candidates)
    with stage_bars() as progress:
        way = None
        if reward is not None:
            way = way_of(arguments, model, reward, plan, candidates, fixed, shelf, progress)
        result = design_sequences(
            model,
            reward,
            arguments.num,
            way,
            candidates=candidates or 1,
            heldout=heldout,
            seed=arguments.seed,
            plan=plan,
            batch_size=arguments.batch_size,
            fixed=fixed,
            likelihood=prior_likelihood(prior, fixed, arguments.seed),
            train=training_sequences(model),
            native=native,
            progress=progress,
            shelf=shelf,
        )
    write(result, arguments, settings, title)
    shelf.close()
    if reward is not None and not any(math.isfinite(row.get("reward", math.nan)) for row in result.table):
        raise UserError(
            f"the reward '{arguments.reward}' gave no finite value for any of the {arguments.num} designs; they were "
            f"written to {arguments.out} as plain samples, correct the reward"
        )


def judge(spec: str | None, alphabet: str, length: int | None) -> Any:
    """The reward of a specification, refused if it does not fit the model; None stays None."""
    from sciflow.domains.sequences.rewards import load_reward

    if spec is None:
        return None
    reward = load_reward(spec, alphabet)
    reward.check(alphabet, length)
    return reward


def write(result: Any, arguments: argparse.Namespace, settings: dict[str, Any], title: str) -> None:
    """The designs, their sidecar, the report; prints table and remarks."""
    import textwrap

    from sciflow.core.files import write_text
    from sciflow.domains.sequences.files import write_sequences
    from sciflow.report.files import write_json
    from sciflow.report.html import page
    from sciflow.report.sequences import remarks, sequence_sections, sequence_table

    labels = [{name: value for name, value in row.items() if name != "sequence"} for row in result.table]
    write_sequences(arguments.out, [row["sequence"] for row in result.table], labels, result.alphabet)
    words = remarks(result)
    write_json(f"{arguments.out}.json", {**settings, "summary": result.summary, "remarks": words})
    print(sequence_table(result).text())
    for remark in words:
        print(textwrap.fill(f"! {remark}", 110, subsequent_indent="  "))
    print(f"wrote {arguments.out}")
    if arguments.report is not None:
        subtitle = f"{settings['model']}, {result.method}, seed {arguments.seed}, sciflow {settings['sciflow']}"
        sections = sequence_sections(result, arguments.reward, arguments.heldout)
        write_text(arguments.report, page(title, subtitle, sections, settings))
        print(f"wrote {arguments.report}")


def training_sequences(model: Any) -> list[str]:
    """Training set of a model by its own split; empty where the model does not name it or it is not on this machine."""
    from sciflow.domains.sequences.data import sequence_dataset

    data = model.spec.get("data")
    source = data.get("source") if isinstance(data, dict) else data
    if not source:
        return []
    try:
        return sequence_dataset(source, alphabet=model.codec.alphabet.name).part("train").strings()
    except UserError:
        return []


def fingerprint(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """What finished batches depend on."""
    import sciflow
    from sciflow.streaming import weights_digest

    given = {name: value for name, value in vars(arguments).items() if name not in ("out", "report", "heldout")}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return {**plain, "sciflow": sciflow.__version__, "weights": weights_digest(model)}


def run_settings(model: Any, arguments: argparse.Namespace, plan: Any, candidates: int | None) -> dict[str, Any]:
    """What reproduces the run."""
    import torch

    import sciflow
    from sciflow.core.config import to_config

    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return {
        **chosen,
        "model": model.spec.get("name", str(arguments.model)),
        "model_file": str(arguments.model),
        "candidates": "all" if candidates is None else candidates,
        "sciflow": sciflow.__version__,
        "torch": torch.__version__,
        "steps": plan.steps,
        "solver": to_config(plan.solvers),
        "loglik": "order-averaged, under the untuned prior, nats per sequence",
        "command": " ".join(["sciflow", *sys.argv[1:]]),
    }
