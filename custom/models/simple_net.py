"""An example of a model: ten features, two classes, for `BCELoss`."""

from __future__ import annotations

from torch import Tensor, nn


class SimpleNet(nn.Module):
    """A network with one hidden layer of 50 units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 50)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(50, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 10) standardised features to (N, 1) probabilities of the second class, 0 to 1."""
        hidden = self.dropout(self.relu(self.fc1(x)))
        probability: Tensor = self.sigmoid(self.fc2(hidden))
        return probability
