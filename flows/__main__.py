"""The command line: `ratchet ...`, the same as `python -m flows ...`."""

from __future__ import annotations

from flows.cli import app, main
from flows.commands import training, versions

__all__ = ["app", "main", "training", "versions"]

if __name__ == "__main__":
    main()
