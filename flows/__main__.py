"""The command line: `ratchet ...`, the same as `python -m flows ...`."""

from __future__ import annotations

from flows.cli import app, main
from flows.commands import service, training, versions

__all__ = ["app", "main", "service", "training", "versions"]

if __name__ == "__main__":
    main()
