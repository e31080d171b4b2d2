"""The command line: `ratchet ...`, the same as `python -m flows ...`."""

from __future__ import annotations

import flows.commands.training
import flows.commands.versions  # noqa: F401  # both modules register their commands when imported
from flows.cli import main

if __name__ == "__main__":
    main()
