"""A sequence design run as report sections: methods side by side, warnings in words, letters, reward against held-out.

Nothing here is drawn with a library: the logo and the scatter are inline SVG.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciflow.domains.sequences.design import SequenceDesigns
from sciflow.report.html import COLOURS, Section, Table, _ticks, histogram

ROWS: dict[str, tuple[str, float]] = {
    "reward_mean": ("mean reward", 1),
    "reward_standard_error": ("its standard error", 1),
    "reward_q10": ("reward, 10 % quantile", 1),
    "reward_median": ("reward, median", 1),
    "reward_q90": ("reward, 90 % quantile", 1),
    "heldout_mean": ("mean held-out reward", 1),
    "heldout_standard_error": ("its standard error", 1),
    "heldout_q10": ("held-out, 10 % quantile", 1),
    "heldout_median": ("held-out, median", 1),
    "heldout_q90": ("held-out, 90 % quantile", 1),
    "loglik_mean": ("mean log-likelihood under the prior [nats]", 1),
    "loglik_median": ("its median", 1),
    "loglik_uniform": ("that of random letters", 1),
    "kmer3_correlation": ("3-mer correlation with the training set", 1),
    "hamming": ("mean Hamming distance between designs [%]", 100),
    "unique": ("unique [%]", 100),
    "recovery": ("recovery of the native sequence [%]", 100),
    "network_rows_per_design": ("network evaluations per design", 1),
    "reward_calls_per_design": ("reward calls per design", 1),
    "seconds": ("seconds, all designs", 1),
}
NOTE = (
    "Unguided: one plain sample of the prior per design. Best of N keeps, for each design, the best of N plain "
    "samples, with N such that the network evaluations agree; one evaluation is one call of the network on one "
    "sequence, and rows answered from the cache are not counted (no such column where the method costs no more than "
    "plain samples). Log-likelihoods are order-averaged, under the untuned prior, in nats per sequence."
)
COLLAPSED = 0.5  # below this share of unique designs the report says so
LOGO_POSITIONS = 120
PALETTES = {
    **{
        name: {"A": "#3b8f55", "C": "#1f5fa8", "G": "#d69a1e", "T": "#c4372b", "U": "#c4372b"}
        for name in ("dna", "rna")
    },
    "protein": {
        **dict.fromkeys("AVLIMFWPG", "#555555"),
        **dict.fromkeys("STNQYC", "#3b8f55"),
        **dict.fromkeys("KRH", "#1f5fa8"),
        **dict.fromkeys("DE", "#c4372b"),
    },
}


def sequence_table(result: SequenceDesigns) -> Table:
    """Figures of the methods side by side."""
    rows = []
    for key, (name, factor) in ROWS.items():
        values = [summary[key] for summary in result.summary.values()]
        if any(value is not None for value in values):
            rows.append([name, *(None if value is None else factor * value for value in values)])
    lost = [summary["without_reward"] for summary in result.summary.values()]
    if any(lost):
        rows.append(["reward was NaN or infinite, not in the means", *lost])
    note = (
        NOTE if len(result.summary) > 1 else "Log-likelihoods: order-averaged, under the prior, in nats per sequence."
    )
    return Table(["", *(name.replace("_", " ") for name in result.summary)], rows, note)


def remarks(result: SequenceDesigns) -> list[str]:
    """What a careful reader would say about the figures, in words."""
    found = []
    chosen, *others = result.summary
    own = result.summary[chosen]
    if result.not_finite:
        found.append(
            f"The reward was NaN or infinite for {result.not_finite} of the sequences that were scored. They count as "
            "the worst while designing and are left out of the means."
        )
    steered = own["reward_mean"] is not None
    if steered and own["heldout_mean"] is None:
        found.append(
            "No held-out reward was given: the judge is the reward itself. A high figure then says that the reward was "
            "raised, not that the sequences are good. Give --heldout."
        )
    for name in others:
        found += _against(own, name, result.summary[name])
    if own["unique"] < COLLAPSED:
        plain = result.summary.get("unguided", own)["unique"]
        why = (
            "the designs have collapsed. Raise --alpha or take fewer designs"
            if own["unique"] < plain / 2 or plain >= COLLAPSED
            else "the prior itself has few likely sequences. Take fewer designs"
        )
        found.append(
            f"Only {100 * own['unique']:.0f} % of the designs are distinct (plain samples: {100 * plain:.0f} %): "
            f"{why}. Quantiles of the reward hide this."
        )
    if own["loglik_mean"] < 1.01 * own["loglik_uniform"]:  # both are negative
        found.append(
            f"Under the prior the designs are less likely ({own['loglik_mean']:.1f} nats) than random letters "
            f"({own['loglik_uniform']:.1f}): they have left the region the prior knows. Raise --alpha."
        )
    return found


def _against(own: Mapping[str, Any], name: str, other: Mapping[str, Any]) -> list[str]:
    """What the comparison with one baseline says."""
    found, shown = [], name.replace("_", " ")
    gain = _difference(own, other, "reward")
    if gain is None:
        return found
    fall = _difference(own, other, "heldout")
    if fall is not None and fall[0] < 0 < gain[0]:
        certain = "" if abs(fall[0]) > 2 * fall[1] else " The fall is within two standard errors: it may be chance."
        found.append(
            f"Reward hacking: against {shown} the reward rises by {gain[0]:.3g} while the held-out reward falls by "
            f"{-fall[0]:.3g} (standard error {fall[1]:.2g}).{certain} What was gained is an error of the reward."
        )
    if fall is not None and fall[0] > 0 < gain[0]:
        certain = "" if fall[0] > 2 * fall[1] else " The latter is within two standard errors: it may be chance."
        found.append(
            f"Against {shown} the reward rises by {gain[0]:.3g} and the held-out reward with it, by {fall[0]:.3g} "
            f"(standard error {fall[1]:.2g}).{certain}"
        )
    if gain[0] <= 0 and name.startswith("best_of"):
        found.append(
            f"At the same number of network evaluations {shown} reaches a mean reward higher by {-gain[0]:.3g} "
            f"(standard error {gain[1]:.2g}). Prefer it only if its held-out reward, log-likelihood and diversity "
            "stand too; a lower --alpha asks the method for more reward."
        )
    return found


def _difference(own: Mapping[str, Any], other: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """Difference of means and its standard error."""
    if own[f"{key}_mean"] is None or other[f"{key}_mean"] is None:
        return None
    errors = [one[f"{key}_standard_error"] or 0.0 for one in (own, other)]
    return own[f"{key}_mean"] - other[f"{key}_mean"], math.hypot(*errors)


def sequence_sections(result: SequenceDesigns, reward: str | None, heldout: str | None) -> list[Section]:
    """Comparison with remarks, charts, letters, and all designs."""
    methods = {name.replace("_", " "): one for name, one in result.methods.items()}
    charts = []
    if reward is not None:
        rewards = {name: one.designs.rewards.tolist() for name, one in methods.items()}
        charts.append(histogram(rewards, f"reward: {reward}"))
    if heldout is not None:
        pairs = {
            name: (one.designs.rewards.tolist(), one.heldout.tolist())
            for name, one in methods.items()
            if one.heldout is not None
        }
        charts.append(scatter(pairs, f"reward: {reward}", f"held out: {heldout}"))
    charts.append(
        histogram({name: one.log_likelihoods.tolist() for name, one in methods.items()}, "log-likelihood [nats]")
    )
    logos = [
        f"<p>{html.escape(name)}</p>{logo(one.designs.records, result.alphabet.name)}" for name, one in methods.items()
    ]
    columns = [name for name in result.table[0] if name not in ("name", "sequence")]
    cells = [[row["name"], row["sequence"], *(row.get(name) for name in columns)] for row in result.table]
    title = "Plain samples of the prior" if reward is None else f"Design for {reward}"
    return [
        Section(title, "\n\n".join(remarks(result)), sequence_table(result), charts),
        Section(
            "Letters",
            "Height is information content (log2 of the number of letters less the entropy [bit]) at each position, "
            "shared by letters in proportion to their frequency. Equal stacks for designs and prior mean that nothing "
            "was learned; full stacks mean that all designs agree.",
            figures=logos,
        ),
        Section(
            "All designs",
            table=Table(["name", "sequence", *columns], cells, text_columns=frozenset({1})),
            folded=True,
        ),
    ]


def letter_frequencies(sequences: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Letters that occur, and their share (positions, letters) at each position that a sequence reaches."""
    width = max(map(len, sequences))
    grid = np.array([list(one.ljust(width)) for one in sequences])
    letters = sorted(set(grid.flat) - {" "})
    counts = np.stack([(grid == letter).sum(0) for letter in letters], 1).astype(float)
    return letters, counts / counts.sum(1, keepdims=True)


def logo(sequences: Sequence[str], alphabet: str, height: int = 90) -> str:
    """A sequence logo as inline SVG (Schneider and Stephens, 1990; without small-sample correction).

    Args:
        sequences: Strings; the first 120 positions are drawn.
        alphabet: dna, rna or protein: colours, and the height of a full stack (2 bit, or log2 20 = 4.3 bit).
        height: Of a full stack [pixels].
    """
    letters, shares = letter_frequencies(sequences)
    shares = shares[:LOGO_POSITIONS]
    full = math.log2(20 if alphabet == "protein" else 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(shares > 0, shares * np.log2(shares), 0.0).sum(1)
    cell = 28 if len(shares) <= 20 else 16 if len(shares) <= 60 else 9
    parts = []
    for position, row in enumerate(shares):
        bottom = float(height)
        for index in np.argsort(row):
            tall = row[index] * (full - entropy[position]) / full * height
            if tall < 0.5:
                continue
            colour = PALETTES[alphabet].get(letters[index], "#333")
            place = f"translate({position * cell} {bottom:.1f}) scale({cell / 10:.2f} {tall / 10:.3f})"
            width = 'textLength="10" lengthAdjust="spacingAndGlyphs"'
            parts.append(f'<text transform="{place}" fill="{colour}" {width}>{html.escape(letters[index])}</text>')
            bottom -= tall
    width = cell * len(shares)
    view = f'viewBox="0 -2 {width} {height + 4}" width="{width}" height="{height + 4}"'
    face = 'font-family="monospace" font-weight="bold" font-size="13.7"'
    base = f'<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="#888"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view} {face}>{base}{"".join(parts)}</svg>'


def scatter(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (350, 270),
) -> str:
    """Points as inline SVG; those that are not finite are left out."""
    points = {
        name: [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
        for name, (x, y) in groups.items()
    }
    flat = [point for group in points.values() for point in group]
    if not flat:
        return f'<p class="note">{html.escape(y_label)}: no data</p>'
    width, height = size
    left, right, top, bottom = 58, width - 14, 14 + 17 * len(points), height - 42
    ticks = [_ticks(min(p[i] for p in flat), max(p[i] for p in flat)) for i in (0, 1)]

    def place(x: float, y: float) -> tuple[float, float]:
        u, v = ((value - t[0]) / (t[-1] - t[0]) for value, t in zip((x, y), ticks, strict=True))
        return left + u * (right - left), bottom - v * (bottom - top)

    parts = []
    for value in ticks[0]:
        px = place(value, ticks[1][0])[0]
        parts.append(f'<text x="{px:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>')
    for value in ticks[1]:
        py = place(ticks[0][0], value)[1]
        parts.append(f'<text x="{left - 6}" y="{py + 4:.1f}" text-anchor="end">{value:g}</text>')
        parts.append(f'<line x1="{left}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}" stroke="#e6e6e6"/>')
    for number, (name, group) in enumerate(points.items()):
        colour, y = COLOURS[number % len(COLOURS)], 12 + 17 * number
        for point in group:
            px, py = place(*point)
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.2" fill="{colour}" fill-opacity="0.55"/>')
        parts.append(f'<circle cx="{left + 10}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 27}" y="{y}">{html.escape(name)}</text>')
    middle = (top + bottom) / 2
    parts.append(f'<text x="{(left + right) / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    turned = f'transform="rotate(-90 13 {middle})"'
    parts.append(f'<text x="13" y="{middle}" text-anchor="middle" {turned}>{html.escape(y_label)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#333">{"".join(parts)}</svg>'
    )
