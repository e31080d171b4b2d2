"""Your own sources: a dep of the stage `ingest`."""
