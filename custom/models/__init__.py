"""Models of yours: a dep of the stages `train` and `evaluate`."""
