"""A molecule design run as report sections: the methods side by side at equal budget, reward curves, drawings."""

from __future__ import annotations

from sciflow.domains.molecules.design import DesignResult
from sciflow.domains.molecules.render import draw_svg
from sciflow.report.html import Section, Table, histogram, line_chart, shown

DRAWN = 24
INTRODUCTION = (
    "Best of N costs as many network evaluations as what it is compared with; unguided is one plain sample per design."
)
ROWS: dict[str, tuple[str, float]] = {
    "reward_mean": ("mean reward", 1),
    "reward_standard_error": ("its standard error", 1),
    "reward_median": ("median reward", 1),
    "reward_best": ("best reward", 1),
    "validity": ("is a molecule [%]", 100),
    "validity_without_correction": ("valid without correction [%]", 100),
    "connectivity": ("connected before correction [%]", 100),
    "uniqueness": ("unique [%]", 100),
    "novelty": ("not in the training set [%]", 100),
    "mean_qed": ("mean QED", 1),
    "mean_logp": ("mean logP", 1),
    "mean_sa": ("mean SA score (1 easy, 10 hard)", 1),
    "network_rows_per_design": ("network evaluations per design", 1),
    "reward_calls_per_design": ("reward calls per design", 1),
    "seconds": ("seconds, all designs", 1),
}


def design_table(result: DesignResult) -> Table:
    """Figures of the methods side by side."""
    methods = result.summary
    rows = []
    for key, (name, factor) in ROWS.items():
        values = [summary[key] for summary in methods.values()]
        if any(value is not None for value in values):
            rows.append([name, *(None if value is None else factor * value for value in values)])
    note = (
        "Best of N keeps, for each design, the best of N unguided samples, with N such that the network evaluations "
        "agree; one evaluation is one call of the network on one molecule. Rewards are over designs that are "
        "molecules. The reward that steers is also the judge: look at the drawings and at figures it does not contain."
    )
    return Table(["", *(name.replace("_", " ") for name in methods)], rows, note)


def design_sections(result: DesignResult, reward: str) -> list[Section]:
    """Comparison, charts, drawings of the best, and all designs."""
    methods = {result.method: result.chosen, **result.baselines}
    rewards = {
        name.replace("_", " "): [
            value for value, record in zip(designs.rewards, designs.records, strict=True) if record.molecule is not None
        ]
        for name, designs in methods.items()
    }
    ranked = {name: (list(range(1, len(r) + 1)), sorted(r, reverse=True)) for name, r in rewards.items() if r}
    charts = [histogram(rewards, f"reward: {reward}"), line_chart(ranked, "rank", "reward")]
    best = [
        (mol, row) for mol, row in zip(result.molecules, result.table, strict=True) if mol is not None and row["unique"]
    ]
    best = best[:DRAWN]
    legends = [f"{shown(row['reward'])}  (sample {row['sample']})" for _, row in best]
    drawings = [draw_svg([mol for mol, _ in best], legends)] if best else ["<p>no molecule came out</p>"]
    columns = [name for name in result.table[0] if name not in ("smiles",)]
    rows = [[row["smiles"] or "", *(row[name] for name in columns)] for row in result.table]
    every = Table(["smiles", *(name.replace("_", " ") for name in columns)], rows, text_columns=frozenset({0}))
    return [
        Section(
            f"Design for {reward}",
            INTRODUCTION,
            design_table(result),
            charts,
        ),
        Section("Best designs", "Distinct molecules by reward, best first.", figures=drawings),
        Section("All designs", table=every, folded=True),
    ]
