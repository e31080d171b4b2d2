"""Your own models: a dep of the stages `train` and `evaluate`."""
