"""How often the gate decides wrongly: simulated test rows, fixed seeds, the gate's own functions.

    python -m benchmarks.gate [--draws 1000]

Each draw is a test set: a row's class, whether it is an easy one, and whether champion and challenger answer it rightly.
Both err mostly on the same rows, as two models of one kind do. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks import params as parameters
from tasks.params import GateParams
from tasks.versions import gate
from tasks.versions.paired import Answers

PARAMS = replace(
    parameters.load(Path(__file__).parents[1]).gate,
    min_accuracy=0.8,
    metric="accuracy",
    rule="no_worse",
    margin=0.005,
    confidence=0.95,
    min_slice=50,
    slice_margin=0.05,
    on_undecided="refuse",
    on_new_contract="refuse",
)
CLASSES = tuple("abcdefghij")


def draw(
    generator: np.random.Generator, rows: int, accuracies: tuple[float, float], prevalence: np.ndarray | None = None
) -> Answers:
    """One test set on which the models have these true accuracies, in every class alike."""
    targets = generator.choice(len(CLASSES), rows, p=prevalence)
    return Answers(targets, *(said(generator, targets, accuracy) for accuracy in accuracies))


def said(generator: np.random.Generator, targets: np.ndarray, accuracy: float) -> np.ndarray:
    """Answers that are right with this probability. Hard rows are the same for all models: each tenth row by position."""
    hard = np.arange(len(targets)) % 10 == 0
    right_if_hard = 0.5
    right_if_easy = (accuracy - 0.1 * right_if_hard) / 0.9
    right = generator.random(len(targets)) < np.where(hard, right_if_hard, right_if_easy)
    return np.where(right, targets, (targets + 1) % len(CLASSES))


def verdicts(params: GateParams, draws: int, **how: object) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in range(draws):
        answers = draw(np.random.default_rng(seed), **how)  # type: ignore[arg-type]
        counts[gate.decide(params, answers, CLASSES).verdict] += 1
    return counts


def downhill(step: float, promotions: int, rows: int, seed: int) -> tuple[int, float]:
    """Promotions that get through, and the accuracy lost, when every challenger is a little worse than the champion.

    All versions answer the same rows; champion and best before it are scored again on them, as the flow does.
    """
    generator = np.random.default_rng(seed)
    targets = generator.choice(len(CLASSES), rows)
    best = champion = said(generator, targets, 0.92)
    level = accuracy = 0.92
    passed = 0
    for _ in range(promotions):
        challenger = said(generator, targets, accuracy - step)
        before = Answers(targets, best, challenger) if best is not champion else None
        if gate.decide(PARAMS, Answers(targets, champion, challenger), CLASSES, before).verdict == "promote":
            passed, accuracy, champion = passed + 1, accuracy - step, challenger
    return passed, level - accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    strict = replace(PARAMS, rule="better")
    print(f"| {draws} draws each, gate.confidence 0.95 | promote | refuse | undecided |\n|---|---|---|---|")
    row("equal models, 10,000 rows, rule better", draws, verdicts(strict, draws, rows=10_000, accuracies=(0.92, 0.92)))
    row("equal models, 1,000 rows, rule better", draws, verdicts(strict, draws, rows=1000, accuracies=(0.92, 0.92)))
    row(
        "2 points better, 10,000 rows, rule better",
        draws,
        verdicts(strict, draws, rows=10_000, accuracies=(0.91, 0.93)),
    )
    row("equal models, 10,000 rows, margin 0.005", draws, verdicts(PARAMS, draws, rows=10_000, accuracies=(0.92, 0.92)))
    row("worse by the margin, 10,000 rows", draws, verdicts(PARAMS, draws, rows=10_000, accuracies=(0.92, 0.915)))
    row("2 points worse, 10,000 rows", draws, verdicts(PARAMS, draws, rows=10_000, accuracies=(0.93, 0.91)))
    shifted = np.array([0.55, *[0.05] * 9])
    row(
        "equal models, prevalence shifted to 55 % of one class, 10,000 rows",
        draws,
        verdicts(PARAMS, draws, rows=10_000, accuracies=(0.92, 0.92), prevalence=shifted),
    )
    small = np.array([0.0005, *[0.9995 / 9] * 9])
    named = sum(five_rows(seed, small) for seed in range(draws))
    print(f"\nA class of some 5 rows that the challenger always gets wrong decided in {named} of {draws} draws.")
    for step in (0.001, 0.002, 0.004):
        ends = [downhill(step, 20, 10_000, seed) for seed in range(max(1, draws // 20))]
        passed, lost = (max(end[part] for end in ends) for part in (0, 1))
        print(
            f"20 challengers, each {step} worse than the champion: at most {passed} got through, {lost:.3f} lost at most."
        )


def five_rows(seed: int, prevalence: np.ndarray) -> bool:
    """Does a class of some 5 rows, all of them lost, make the gate refuse a model that is better elsewhere?"""
    answers = draw(np.random.default_rng(seed), 10_000, (0.91, 0.93), prevalence)
    challenger = np.where(answers.targets == 0, 1, answers.challenger)
    return gate.decide(PARAMS, answers._replace(challenger=challenger), CLASSES).verdict != "promote"


def row(name: str, draws: int, counts: Counter[str]) -> None:
    shares = " | ".join(f"{counts[verdict] / draws:.1%}" for verdict in ("promote", "refuse", "undecided"))
    print(f"| {name} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
