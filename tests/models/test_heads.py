"""Every accepted criterion defines how outputs become predictions, and its mean is that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ratchet.dataset.normalise import Normalise
from ratchet.dataset.prepared import PreparedDataset
from ratchet.dataset.spec import Spec
from ratchet.errors import TrainingError
from ratchet.models import architectures, devices, head_checks, heads
from ratchet.training import batches, recipe
from ratchet.training.checkpoint import Checkpoints
from ratchet.training.distributed import ALONE
from ratchet.training.loop import Trained, fit
from ratchet.training.state import State
from tests.helpers.learning_samples import chosen, lay

pytest_plugins = ["tests.helpers.learning_fixtures"]


def network(width: int, *last: nn.Module) -> Callable[..., nn.Module]:
    def make(input_shape: Any, classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(input_shape[0], 16), nn.ReLU(), nn.Linear(16, width), *last
        )

    return make


NETWORKS = {
    "two_scores": network(2),
    "one_score": network(1),
    "two_logs": network(2, nn.LogSoftmax(1)),
    "one_probability": network(1, nn.Sigmoid()),
    "two_probabilities": network(2, nn.Softmax(1)),
}
ACCEPTED = [
    ("CrossEntropyLoss", "two_scores"),
    ("NLLLoss", "two_logs"),
    ("MultiMarginLoss", "two_scores"),
    ("BCELoss", "one_probability"),
    ("BCELoss", "two_probabilities"),
    ("BCEWithLogitsLoss", "one_score"),
    ("BCEWithLogitsLoss", "two_scores"),
    *(
        (name, net)
        for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss")
        for net in ("one_score", "two_scores", "one_probability")
    ),
]


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in NETWORKS.items():
        monkeypatch.setitem(architectures.OWN, name, make)


@pytest.fixture(scope="module")
def separable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clouds that a line separates, 80% of the rows in the second class."""
    random = np.random.default_rng(0)
    targets = (random.random(600) < 0.8).astype(np.int64)
    inputs = random.normal(0, 0.5, (600, 4)).astype(np.float32)
    inputs[:, 0] += 4 * targets - 2
    return lay(tmp_path_factory.mktemp("separable"), inputs, targets, ("no", "yes"))


def trained(tree: Path, tmp_path: Path, **values: Any) -> Trained:
    prepared = tree / "data/prepared"
    train, val = (PreparedDataset(prepared / split) for split in ("train", "val"))
    params = chosen(**{"run__checkpoint_seconds": 1e9, **values})
    spec = Spec.read(prepared / "spec.json")
    return fit(params, spec, train, val, Checkpoints(tmp_path / "none"), say=lambda line: None)


def criterion(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(("name", "model"), ACCEPTED)
def test_every_accepted_criterion_learns_and_predicts(
    separable: Path, tmp_path: Path, name: str, model: str
) -> None:
    values = {
        "train__criterion": criterion(name),
        "model__name": model,
        "model__arguments": {},
        "train__epochs": 20,
    }
    done = trained(separable, tmp_path, train__lr=0.01, **values)
    assert done.curves[-1]["val_accuracy"] > 0.95


def test_the_list_of_criteria_is_complete() -> None:
    assert {name for name, _ in ACCEPTED} == set(heads.RULES)


# ── probabilities ─────────────────────────────────────────────────────────────────────────────────

PLAIN = nn.Identity()
BIG = 1e4


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("CrossEntropyLoss", [[0.0, 0.0]], [[0.5, 0.5]]),
        ("CrossEntropyLoss", [[0.0, BIG]], [[0.0, 1.0]]),
        ("NLLLoss", [[np.log(0.25), np.log(0.75)]], [[0.25, 0.75]]),
        ("BCELoss", [[0.2]], [[0.8, 0.2]]),
        ("BCELoss", [[0.2, 0.6]], [[0.25, 0.75]]),
        ("BCELoss", [[0.0, 0.0]], [[0.0, 0.0]]),
        ("BCEWithLogitsLoss", [[0.0]], [[0.5, 0.5]]),
        ("BCEWithLogitsLoss", [[0.0, 0.0]], [[0.5, 0.5]]),
        ("BCEWithLogitsLoss", [[-BIG, -BIG + 1]], [[0.2689, 0.7311]]),
        ("MSELoss", [[0.3]], [[0.7, 0.3]]),
        ("MSELoss", [[1.7]], [[0.0, 1.0]]),
        ("MSELoss", [[-0.4]], [[1.0, 0.0]]),
        ("L1Loss", [[0.25, 0.75]], [[0.25, 0.75]]),
        ("HuberLoss", [[1.2, 1.5]], [[0.35, 0.65]]),
        ("SmoothL1Loss", [[-3.0, -2.9]], [[0.45, 0.55]]),
        ("MSELoss", [[0.1, 0.9, -5.0]], [[0.1, 0.9, 0.0]]),
        ("MSELoss", [[7.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]),
    ],
)
def test_outputs_become_probabilities(
    name: str, given: list[list[float]], expected: list[list[float]]
) -> None:
    found = heads.probabilities(PLAIN, name, torch.tensor(given))
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(heads.RULES) - {"NLLLoss", "BCELoss"}))
def test_the_highest_output_is_the_prediction(name: str) -> None:
    given = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 3
    found = heads.probabilities(PLAIN, name, given)
    assert torch.equal(found.argmax(1), given.argmax(1))
    assert torch.allclose(found.sum(1), torch.ones(200), atol=1e-5) and (found >= 0).all()


class Own(nn.Module):
    """Two scores, of which the lower wins."""

    def __init__(self, input_shape: Any, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.layer(inputs)
        return scores.exp()

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs / outputs.sum(1, keepdim=True)


def test_a_model_may_define_its_own_probabilities(
    separable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architectures.OWN, "own", Own)
    poisson = criterion("PoissonNLLLoss", log_input=False)
    done = trained(separable, tmp_path, model__name="own", model__arguments={}, train__criterion=poisson,
                   train__epochs=30, train__lr=0.02)  # fmt: skip
    assert done.curves[-1]["val_accuracy"] > 0.95


# ── what is refused ───────────────────────────────────────────────────────────────────────────────

REFUSED = [
    "CTCLoss", "CosineEmbeddingLoss", "GaussianNLLLoss", "HingeEmbeddingLoss", "KLDivLoss", "MarginRankingLoss",
    "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "PoissonNLLLoss", "SoftMarginLoss", "TripletMarginLoss",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_criteria_are_refused_by_name(name: str) -> None:
    model = NETWORKS["two_scores"]((4,), 2)
    with pytest.raises(
        TrainingError,
        match=rf"train\.criterion: {name} does not define .* expected one of CrossEntr",
    ):
        head_checks.check(model, getattr(nn, name)(), torch.zeros(2, 4), 2)


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        (
            "BCEWithLogitsLoss",
            "one_probability",
            r"needs scores, but the model ends with a sigmoid; use BCELoss, or",
        ),
        (
            "CrossEntropyLoss",
            "two_probabilities",
            r"needs scores, but the model ends with a softmax; use BCELoss or MS",
        ),
        (
            "MultiMarginLoss",
            "two_probabilities",
            r"needs scores, but the model ends with a softmax",
        ),
        (
            "CrossEntropyLoss",
            "one_probability",
            r"needs 2 outputs, but the model has 1; use BCELoss$",
        ),
        ("NLLLoss", "one_probability", r"needs 2 outputs, but the model has 1; use BCELoss$"),
        (
            "CrossEntropyLoss",
            "one_score",
            r"needs 2 outputs, but the model has 1; use BCEWithLogitsLoss$",
        ),
        ("NLLLoss", "two_scores", r"NLLLoss needs log-probabilities.*use CrossEntropyLoss"),
        ("NLLLoss", "two_probabilities", r"NLLLoss needs log-probabilities"),
        (
            "BCELoss",
            "one_score",
            r"BCELoss needs probabilities, but the model returns something else; use BCEW",
        ),
        (
            "BCELoss",
            "two_scores",
            r"BCELoss needs probabilities, but the model returns something else",
        ),
        (
            "BCELoss",
            "two_logs",
            r"BCELoss needs probabilities, but the model returns something else",
        ),
    ],
)
def test_scores_and_probabilities_are_not_mixed_up(name: str, model: str, message: str) -> None:
    """As in Lightning-AI/pytorch-lightning#18272."""
    with pytest.raises(TrainingError, match=message):
        head_checks.check(NETWORKS[model]((4,), 2), getattr(nn, name)(), torch.randn(2, 4), 2)


def test_a_sigmoid_is_seen_in_forward_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.sigmoid(self.layer(inputs)).squeeze(1).unsqueeze(1)

    with pytest.raises(TrainingError, match="ends with a sigmoid"):
        head_checks.check(Net(), nn.BCEWithLogitsLoss(), torch.zeros(2, 4), 2)
    head_checks.check(Net(), nn.BCELoss(), torch.zeros(2, 4), 2)


class Last(nn.Module):
    """A linear layer, and a function of its outputs."""

    def __init__(self, width: int, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(4, width), function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(self.layer(inputs))


@pytest.mark.parametrize(
    ("width", "function", "name", "message"),
    [
        (
            1,
            lambda x: x.sigmoid().clamp(1e-6, 1 - 1e-6),
            "BCEWithLogitsLoss",
            r"ends with a sigmoid",
        ),
        (1, lambda x: x.sigmoid().double().float(), "BCEWithLogitsLoss", r"ends with a sigmoid"),
        (2, lambda x: x.sigmoid()[:, 1:], "BCEWithLogitsLoss", r"ends with a sigmoid"),
        (1, functional.hardsigmoid, "BCEWithLogitsLoss", r"ends with a sigmoid"),
        (2, lambda x: x.softmax(1).clamp(min=1e-6), "CrossEntropyLoss", r"ends with a softmax"),
        (1, lambda x: x.clamp(0, 1), "BCELoss", None),
        (1, lambda x: x.sigmoid().clamp(1e-6, 1 - 1e-6), "BCELoss", None),
        (2, lambda x: x.log_softmax(1), "CrossEntropyLoss", None),
        (
            2,
            lambda x: x.detach(),
            "CrossEntropyLoss",
            r"outputs \(torch.float32\) have no gradient",
        ),
        (
            2,
            lambda x: (x > 0).long(),
            "CrossEntropyLoss",
            r"outputs \(torch.int64\) have no gradient",
        ),
        (
            2,
            lambda x: dict[str, Tensor]()["a"],
            "CrossEntropyLoss",
            r"does not take rows of shape \(4,\): KeyError: 'a'",
        ),
        (
            2,
            lambda x: x.nothing,
            "CrossEntropyLoss",
            r"AttributeError: 'Tensor' object has no attribute 'nothing'",
        ),
        (
            2,
            lambda x: (x, x),
            "CrossEntropyLoss",
            r"output for 2 rows is a tuple; 2 classes need \(2, 2\)",
        ),
        (
            1,
            lambda x: x.sigmoid().squeeze(1),
            "BCELoss",
            r"output for 2 rows is \(2,\); 2 classes need",
        ),
    ],
)
def test_what_a_model_ends_with(width: int, function: Any, name: str, message: str | None) -> None:
    criterion, model = getattr(nn, name)(), Last(width, function)
    if message is None:
        head_checks.check(model, criterion, torch.randn(2, 4), 2)
        return
    with pytest.raises(TrainingError, match=message):
        head_checks.check(model, criterion, torch.randn(2, 4), 2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "CrossEntropyLoss",
            {"weight": "balance"},
            r"weight: balance is not supported; expected balanced, or a list",
        ),
        (
            "CrossEntropyLoss",
            {"weight": [0, 0]},
            r"weight: \[0, 0\] is not supported; .* of numbers above 0",
        ),
        ("CrossEntropyLoss", {"weight": [-1, 2]}, r"weight: \[-1, 2\] is not supported"),
        ("CrossEntropyLoss", {"weight": ["a", 1]}, r"weight: \['a', 1\] is not supported"),
        ("CrossEntropyLoss", {"weight": 3}, r"weight: 3 is not supported"),
        (
            "BCEWithLogitsLoss",
            {"pos_weight": 3.0},
            r"pos_weight: 3.0 is not supported; expected a list of numbers ab",
        ),
        ("CrossEntropyLoss", {"reduction": "sum"}, r"reduction: sum is not supported"),
        ("BCELoss", {"reduction": "sum"}, r"reduction: sum is not supported"),
        (
            "MSELoss",
            {"reduction": "none"},
            r"reduction: none is not supported.*leave reduction out",
        ),
        ("CrossEntropyLoss", {"size_average": False}, r"size_average: False is not supported"),
        ("L1Loss", {"reduce": False}, r"reduce: False is not supported"),
        ("CrossEntropyLoss", {"ignore_index": 1}, r"ignore_index: 1 is not supported"),
        (
            "CrossEntropyLoss",
            {"weight": [1, 2, 3]},
            r"weight has 3 numbers, but the data have 2 classes",
        ),
        (
            "BCELoss",
            {"weight": [1, 5]},
            r"would weight the outputs of BCELoss, not the classes; use weight: balanced",
        ),
        ("BCEWithLogitsLoss", {"weight": [1, 5]}, r"would weight the outputs"),
    ],
)
def test_arguments_that_would_change_the_mean_are_refused(
    name: str, arguments: Any, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        recipe.criterion(
            chosen(train__criterion=criterion(name, **arguments)).train.criterion,
            torch.tensor([3, 1]),
        )


# ── weights ───────────────────────────────────────────────────────────────────────────────────────

WEIGHTED = [
    ("CrossEntropyLoss", "two_scores", {"weight": "balanced"}),
    ("CrossEntropyLoss", "two_scores", {"weight": [1.0, 7.0], "label_smoothing": 0.1}),
    ("CrossEntropyLoss", "two_scores", {}),
    ("NLLLoss", "two_logs", {"weight": "balanced"}),
    ("MultiMarginLoss", "two_scores", {"weight": "balanced"}),
    ("BCELoss", "one_probability", {"weight": "balanced"}),
    ("BCELoss", "two_probabilities", {"weight": "balanced"}),
    ("BCEWithLogitsLoss", "one_score", {"weight": "balanced"}),
    ("BCEWithLogitsLoss", "two_scores", {"pos_weight": [2.0, 3.0]}),
    ("BCEWithLogitsLoss", "one_score", {"pos_weight": [5.0]}),
]


def step(
    tree: Path, name: str, model: str, arguments: dict[str, Any], accumulate: int
) -> tuple[State, float]:
    """A step of 64 rows in float64.

    Returns the state, whose model still has its gradients, and the loss.
    """
    torch.manual_seed(0)
    prepared = tree / "data/prepared"
    train, val = (PreparedDataset(prepared / split) for split in ("train", "val"))
    params = chosen(train__criterion=criterion(name, **arguments), model__name=model, model__arguments={},
                    train__accumulate=accumulate, train__batch_size=64, train__precision="float32")  # fmt: skip
    spec = Spec.read(prepared / "spec.json")
    state = State.start(params, spec, devices.plan(params.train, 0), ALONE, train, val)
    state.model.double()
    state.criterion.double()
    rows = batches.rows_of(0, len(train), 64)
    # an uneven batch: all rows of the rarer class come first
    order = np.argsort(train.targets, kind="stable")[
        np.linspace(0, len(train) - 1, rows).astype(int)
    ]
    loss = state.learn(
        torch.from_numpy(train.inputs[order]).double(), torch.from_numpy(train.targets[order])
    )
    return state, float(loss) / rows


@pytest.mark.parametrize(("name", "model", "arguments"), WEIGHTED)
def test_parts_of_a_batch_give_its_gradient_and_its_loss(
    separable: Path, name: str, model: str, arguments: dict[str, Any]
) -> None:
    """As reported in pytorch/pytorch#72047."""
    once, loss = step(separable, name, model, arguments, 1)
    parted, loss_of_parts = step(separable, name, model, arguments, 4)
    assert loss_of_parts == pytest.approx(loss, abs=1e-6)
    for one, other in zip(once.model.parameters(), parted.model.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6, rtol=0)  # type: ignore[arg-type]


def test_balanced_rows_weigh_as_their_class_under_bce() -> None:
    made = recipe.criterion(
        chosen(train__criterion=criterion("BCELoss", weight="balanced")).train.criterion,
        torch.tensor([3, 1]),
    )
    targets = torch.tensor([0, 0, 0, 1])
    given = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    losses = -torch.log(torch.tensor([0.9, 0.8, 0.7, 0.4]))
    weights = torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert heads.loss(made, given, targets) == pytest.approx(
        float((losses * weights).sum() / weights.sum())
    )
    assert heads.mass(made, targets) == pytest.approx(4)


@pytest.mark.parametrize("batch", [7, 50])
def test_the_validation_loss_does_not_depend_on_the_batches(
    separable: Path, tmp_path: Path, batch: int
) -> None:
    prepared = separable / "data/prepared"
    train, val = (PreparedDataset(prepared / split) for split in ("train", "val"))
    params = chosen(train__criterion=criterion("CrossEntropyLoss", weight=[1.0, 30.0]), model__name="two_scores",
                    model__arguments={})  # fmt: skip
    spec = Spec.read(prepared / "spec.json")
    state = State.start(params, spec, devices.plan(params.train, 0), ALONE, train, val)
    inputs, targets = torch.from_numpy(np.array(val.inputs)), torch.from_numpy(val.targets)
    rows = zip(torch.split(inputs, batch), torch.split(targets, batch), strict=True)
    found, _ = state._score(state.model, rows, Normalise(spec, torch.device("cpu")), lambda: False)
    with torch.no_grad():
        normalised = Normalise(spec, torch.device("cpu"))(inputs)
        whole = heads.loss(state.criterion, state.model.eval()(normalised), targets)
    assert found == pytest.approx(float(whole), abs=1e-6)
