"""The command line: `ratchet ...`, the same as `python -m cli ...`."""

from __future__ import annotations

# Each module registers its commands when it is imported, and --help lists them in this order.
import cli.training
import cli.versions

# isort: split
import cli.upkeep  # noqa: F401  # used by its import
from cli.app import main

if __name__ == "__main__":
    main()
