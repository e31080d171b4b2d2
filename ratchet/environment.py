"""The environment variables of Ratchet's processes and their children."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# These variables say how to reach a remote, where the user's settings are, and who commits. Every
# other GIT_* variable could redirect what git reads or writes: git sets GIT_DIR and GIT_INDEX_FILE
# for its hooks.
_GIT_VARIABLES = re.compile(
    r"GIT_(?:SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|PROXY_COMMAND|(?:HTTP|SSL|PROXY_SSL)_\w+"
    r"|ALLOW_PROTOCOL|PROTOCOL_FROM_USER|DISCOVERY_ACROSS_FILESYSTEM|EXEC_PATH"
    r"|CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+)|(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL))"
)


def inherited_environment() -> dict[str, str]:
    """Return the environment for child processes.

    It lacks git's variables about the caller's repository. It also lacks PYTHONSAFEPATH, because
    `python -m tasks.train` must find the code of its own tree.
    """

    def is_kept(name: str) -> bool:
        if name.startswith("GIT_"):
            return _GIT_VARIABLES.fullmatch(name) is not None
        return name != "PYTHONSAFEPATH"

    return {name: value for name, value in os.environ.items() if is_kept(name)}


def isolate() -> None:
    """Delete the variables that children must not inherit from this process's environment."""
    for name in os.environ.keys() - inherited_environment().keys():
        del os.environ[name]


def set_defaults(values: Mapping[str, str]) -> None:
    """Set the variables that are not set yet, before a library reads them when it is imported."""
    for name, value in values.items():
        os.environ.setdefault(name, value)
