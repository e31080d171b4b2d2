"""The command line: `ratchet ...`, the same as `python -m cli ...`."""

from __future__ import annotations

import cli.training
import cli.versions  # noqa: F401  # both modules register their commands when imported
from cli.app import main

if __name__ == "__main__":
    main()
