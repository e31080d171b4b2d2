"""Copy the stored files of a repository that `old.sh` made to golden files: `python keep.py REPOSITORY FOLDER`.

A file of each kind becomes KIND.NUMBER.json, unless there is one. If its versions are the first of
format 1, the repository itself becomes format1.bundle (git) and format1.tar.xz (DVC's objects).
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

FILES = {
    "card": "models/classifier.json",
    "spec": "data/prepared/spec.json",
    "dataset": "data/raw/dataset.json",
    "lock": "source.lock",
    "gate": "reports/gate.json",
    "validation": "reports/validation.json",
    "drift": "reports/drift.json",
}
TAGS = {"version": "classifier@v1.0.1", "assignment": "classifier#prod#3"}


def main(repository: Path, golden: Path) -> None:
    """Keep what is not kept yet."""
    contents = {
        kind: (repository / file).read_text()
        for kind, file in FILES.items()
        if (repository / file).exists()
    }
    for kind, tag in TAGS.items():
        message = subprocess.check_output(
            ["git", "cat-file", "tag", tag], cwd=repository, text=True
        )
        contents[kind] = message[message.rindex("\n{\n") + 1 :]
    for kind, text in contents.items():
        file = golden / f"{kind}.{json.loads(text).get('format', 1)}.json"
        if not file.exists():
            file.write_text(text)
    if "format" not in json.loads(contents["version"]) and not (golden / "format1.bundle").exists():
        bundle = golden.resolve() / "format1.bundle"
        subprocess.check_call(
            ["git", "bundle", "create", "--quiet", bundle, "--all"], cwd=repository
        )
        with tarfile.open(golden / "format1.tar.xz", "w:xz") as archive:
            archive.add(repository / ".dvc/cache/files", ".dvc/cache/files")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
