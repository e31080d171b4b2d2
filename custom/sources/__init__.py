"""Sources of yours: a dep of the stage `ingest`."""
