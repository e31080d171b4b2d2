"""How often the gate decides wrongly: simulated test rows, fixed seeds, the gate's own functions.

    python -m benchmarks.gate [--draws 1000] [--never 100000] [--small]

Each draw is a test set: a row's class, whether it is an easy one, and whether champion and
challenger answer it right. Both err mostly on the same rows, as two models of one kind do. Prints
tables in Markdown.

Seeds start at `FIRST`. The rule was settled before they were drawn for the first time: change both
together.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from ratchet import params as parameters
from ratchet.gate import judgement, policy
from ratchet.gate.statistics import Answers
from ratchet.params import GateParams

FIRST = 1_000_000  # seed
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
Choice = Literal["refuse", "estimate", "promote"]
CHOICES: tuple[Choice, ...] = ("refuse", "estimate", "promote")  # of gate.on_undecided
SMALL = (30, 60, 80, 143, 300, 540, 1000)  # test rows
GAPS = (
    0.0,
    0.02,
    0.05,
    -0.02,
    -0.05,
    -0.09,
)  # true accuracy of the challenger less the champion's 0.90
BETTER, MEANS = replace(PARAMS, rule="better"), replace(PARAMS, metric="macro_recall")
CLASSES = tuple("abcdefghij")
EVEN = np.full(10, 0.1)
UNLIKE = np.linspace(0.75, 0.99, 10)  # accuracy in each class, where they differ
SHIFTS = {
    "one class is 55 %": np.array([0.55, *[0.05] * 9]),
    "one class is 0.5 %": np.array([0.005, *[0.995 / 9] * 9]),
    "each class half as many as the one before": 0.5 ** np.arange(10) / sum(0.5 ** np.arange(10)),
    "two classes only": np.array([0.5, 0.5, *[0.0] * 8]),
}


def draw(
    seed: int,
    rows: int,
    champion: np.ndarray,
    challenger: np.ndarray,
    prevalence: np.ndarray = EVEN,
) -> Answers:
    """One test set on which the models have these true accuracies per class, (10,) each."""
    generator = np.random.default_rng(seed)
    targets = generator.choice(len(CLASSES), rows, p=prevalence)
    return Answers(
        targets, *(said(generator, targets, accuracy) for accuracy in (champion, challenger))
    )


def said(generator: np.random.Generator, targets: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Answers that are right with this probability per class.

    Each tenth row by position is hard for all models.
    """
    hard = np.arange(len(targets)) % 10 == 0
    right_if_hard = 0.5
    right_if_easy = (accuracy[targets] - 0.1 * right_if_hard) / 0.9
    right = generator.random(len(targets)) < np.where(hard, right_if_hard, right_if_easy)
    return np.where(right, targets, (targets + 1) % len(CLASSES))


def alike(accuracy: float) -> np.ndarray:
    return np.full(len(CLASSES), accuracy)


def verdicts(
    params: GateParams,
    draws: int,
    rows: int,
    champion: np.ndarray,
    challenger: np.ndarray,
    prevalence: np.ndarray = EVEN,
    first: int = FIRST,
) -> Counter[str]:
    sets = (draw(first + n, rows, champion, challenger, prevalence) for n in range(draws))
    return Counter(judgement.decide(params, answers, CLASSES).verdict for answers in sets)


def downhill(step: float, promotions: int, rows: int, seed: int) -> tuple[int, float]:
    """Promotions that get through, and the accuracy lost, when every challenger is a little worse than the champion.

    All versions answer the same rows; champion and best before it are scored again on them, as the
    flow does.
    """
    generator = np.random.default_rng(seed)
    targets = generator.choice(len(CLASSES), rows)
    best = champion = said(generator, targets, alike(0.92))
    level = accuracy = 0.92
    passed = 0
    for _ in range(promotions):
        challenger = said(generator, targets, alike(accuracy - step))
        before = Answers(targets, best, challenger) if best is not champion else None
        if (
            judgement.decide(
                PARAMS, Answers(targets, champion, challenger), CLASSES, before
            ).verdict
            == "promote"
        ):
            passed, accuracy, champion = passed + 1, accuracy - step, challenger
    return passed, level - accuracy


def five_rows(seed: int) -> bool:
    """Does a class of some 5 rows, all of them lost, keep out a model that is better elsewhere?"""
    small = np.array([0.0005, *[0.9995 / 9] * 9])
    answers = draw(seed, 10_000, alike(0.91), alike(0.93), small)
    lost = answers._replace(challenger=np.where(answers.targets == 0, 1, answers.challenger))
    return any(
        judgement.decide(params, lost, CLASSES).verdict != "promote" for params in (PARAMS, MEANS)
    )


def small_sets(draws: int) -> None:
    """Shares that end with a promotion, for each `gate.on_undecided`."""
    heads = [
        "equal" if gap == 0 else f"{100 * abs(gap):.0f} {'better' if gap > 0 else 'worse'}"
        for gap in GAPS
    ]
    print(
        f"| {draws:,} draws each; % promoted with {', '.join(CHOICES)} | "
        + " | ".join(heads)
        + " |"
    )
    print("|---" * (len(GAPS) + 1) + "|")
    for rows in SMALL:
        cells = [_promoted(draws, rows, 0.9, 0.9 + gap) for gap in GAPS]
        print(f"| {rows:,} rows | " + " | ".join(cells) + " |", flush=True)


def _promoted(draws: int, rows: int, champion: float, challenger: float) -> str:
    """For each of `CHOICES` the share of promotions, as `0 / 53 / 97`, of the same draws."""
    counts = Counter(dict.fromkeys(CHOICES, 0))
    for n in range(draws):
        found = judgement.decide(
            PARAMS, draw(FIRST + n, rows, alike(champion), alike(challenger)), CLASSES
        )
        counts.update(choice for choice in CHOICES if _passes(found, choice))
    return " / ".join(f"{100 * counts[choice] / draws:.0f}" for choice in CHOICES)


def _passes(found: judgement.Judgement, choice: Choice) -> bool:
    params = replace(PARAMS, min_accuracy=0.0, on_undecided=choice)
    return policy.settle(params, found, 1.0, "the champion")[0] == "promote"


def repeated_use(repeats: int) -> None:
    """20 challengers on small test sets, each a little worse than the champion: points lost, on average and at most."""
    print(
        f"\n| {repeats} repeats; points lost with estimate | same rows each time | new rows each time |\n|---|---|---|"
    )
    for rows in (80, 300, 1000):
        for step in (0.005, 0.01, 0.02):
            cells = []
            for fresh in (False, True):
                lost = [100 * drift(step, rows, fresh, FIRST + seed) for seed in range(repeats)]
                cells.append(f"{np.mean(lost):.1f}, at most {max(lost):.1f}")
            print(
                f"| {rows:,} rows, {100 * step:.1f} points worse each | {' | '.join(cells)} |",
                flush=True,
            )


def drift(step: float, rows: int, fresh: bool, seed: int) -> float:
    """Accuracy lost by 20 challengers, each `step` worse than the champion, where `estimate` decides what is undecided.

    The best before is the last version whose gain a gate has shown, as for the flow.
    """
    generator = np.random.default_rng(seed)
    targets = generator.choice(len(CLASSES), rows)
    champion = best = 0.9
    theirs = bests = said(generator, targets, alike(champion))
    for _ in range(20):
        if fresh:
            targets = generator.choice(len(CLASSES), rows)
            theirs = said(generator, targets, alike(champion))
            bests = theirs if best == champion else said(generator, targets, alike(best))
        ours = said(generator, targets, alike(champion - step))
        before = Answers(targets, bests, ours) if best != champion else None
        found = judgement.decide(PARAMS, Answers(targets, theirs, ours), CLASSES, before)
        if _passes(found, "estimate"):
            champion, theirs = champion - step, ours
            if found.estimate and found.estimate.low > 0:
                best, bests = champion, theirs
    return 0.9 - champion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument(
        "--never",
        type=int,
        default=100_000,
        help="draws of a shift of prevalence, over all its rows",
    )
    parser.add_argument(
        "--small", action="store_true", help="the tables of small test sets alone, a minute or two"
    )
    arguments = parser.parse_args()
    small_sets(arguments.draws)
    repeated_use(max(1, arguments.draws // 10))
    if arguments.small:
        return
    print()
    overall(arguments.draws)
    of_a_class(arguments.draws)
    named = sum(five_rows(FIRST + n) for n in range(arguments.draws))
    print(
        f"\nA class of some 5 rows, always wrong, kept a better model out in {named} of {arguments.draws} draws."
    )
    for step in (0.001, 0.002, 0.004):
        ends = [
            downhill(step, 20, 10_000, FIRST + seed)
            for seed in range(max(1, arguments.draws // 20))
        ]
        passed, lost = (max(end[part] for end in ends) for part in (0, 1))
        print(
            f"20 challengers, each {step} worse than the one before: at most {passed} got through, {lost:.3f} lost."
        )
    prevalence(arguments.never)


def overall(draws: int) -> None:
    head(draws)
    equal, ten = alike(0.92), 10_000
    row("equal, 10,000 rows, rule better", verdicts(BETTER, draws, ten, equal, equal))
    row("equal, 1,000 rows, rule better", verdicts(BETTER, draws, 1000, equal, equal))
    row(
        "2 points better, 10,000 rows, rule better",
        verdicts(BETTER, draws, ten, alike(0.91), alike(0.93)),
    )
    row("equal, 10,000 rows, margin 0.005", verdicts(PARAMS, draws, ten, equal, equal))
    row("worse by the margin, 10,000 rows", verdicts(PARAMS, draws, ten, equal, alike(0.915)))
    row("2 points worse, 10,000 rows", verdicts(PARAMS, draws, ten, alike(0.93), alike(0.91)))
    row("4 points worse, 1,000 rows", verdicts(PARAMS, draws, 1000, alike(0.94), alike(0.90)))


def of_a_class(draws: int) -> None:
    """What is left of the power to see one class fall, where the other nine get a point better."""
    print()
    head(draws)
    for rows in (100, 300, 1000):
        for loss in (0.1, 0.2, 0.4):
            accuracy = np.array([0.92 - loss, *[0.93] * 9])
            found = verdicts(PARAMS, draws, 10 * rows, alike(0.92), accuracy)
            row(f"one class of {rows} rows loses {100 * loss:.0f} points", found)


def prevalence(draws: int) -> None:
    """Equally good models, with other shares of the classes: nothing may be refused."""
    each = max(1, draws // (len(SHIFTS) * 4))
    print()
    head(each)
    total: Counter[str] = Counter()
    for name, shares in SHIFTS.items():
        for params, rows, accuracy in (
            (PARAMS, 10_000, alike(0.92)),
            (PARAMS, 10_000, UNLIKE),
            (PARAMS, 1000, UNLIKE),
            (MEANS, 1000, UNLIKE),
        ):
            first = 2 * FIRST + total.total()  # no seed twice
            found = verdicts(params, each, rows, accuracy, accuracy, shares, first)
            row(
                f"equal, {name}, {rows:,} rows, {params.metric}{', unlike classes' * (accuracy is UNLIKE)}",
                found,
            )
            total += found
    print(f"\nRefused: {total['refuse']} of {total.total():,}.")


def head(draws: int) -> None:
    print(
        f"| {draws:,} draws each, gate.confidence 0.95 | promote | refuse | worse | undecided |\n|---|---|---|---|---|"
    )


def row(name: str, counts: Counter[str]) -> None:
    shares = " | ".join(
        f"{counts[verdict] / counts.total():.1%}"
        for verdict in ("promote", "refuse", "worse", "undecided")
    )
    print(f"| {name} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
