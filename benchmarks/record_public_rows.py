"""Records the fingerprints by which public test sets are recognised under another name.

    python benchmarks/record_public_rows.py FOLDER [--rows 500] [--out FILE]

FOLDER holds JSON lines, one file for each set that it has, named as in `SETS` below. Only hashes
are written, of at most so many rows of each set: those whose hashes are smallest, so that the same
ones come out whatever the order of the rows. Texts that occur twice in a set are left out.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from evaluators.harness.public_rows import fingerprints, pack

#: Name of the set -> its file, and the column that tells its rows apart. No training rows.
SETS = {
    "boolq validation": ("boolq_validation.jsonl", "question"),
    "commonsense_qa validation": ("commonsenseqa_validation.jsonl", "question"),
    "gsm8k test": ("gsm8k_test.jsonl", "question"),
    "jcommonsenseqa test": ("jcommonsenseqa_test.jsonl", "question"),
    "jcommonsenseqa validation": ("jcommonsenseqa_valid.jsonl", "question"),
    "mgsm en test": ("mgsm_en_test.jsonl", "question"),
    "mgsm ja test": ("mgsm_ja_test.jsonl", "question"),
    "mmlu test": ("mmlu_test.jsonl", "question"),
    "openbookqa test": ("openbookqa_test.jsonl", "question_stem"),
    "piqa validation": ("piqa_validation.jsonl", "sol1"),
}


def main() -> None:
    """Writes the file and prints how many fingerprints each set has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("evaluators/harness/public_rows.json"))
    arguments = parser.parse_args()
    found = {}
    for name, (file, column) in SETS.items():
        path = arguments.folder / file
        if not path.exists():
            print(f"{name}: there is no {path}, left out")
            continue
        digests = fingerprints_of(path, column)[: arguments.rows]
        found[name] = pack(digests)
        print(f"{name}: {len(digests)} fingerprints")
    arguments.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def fingerprints_of(path: Path, column: str) -> list[bytes]:
    """Returns the hashes of the texts that occur once, smallest first."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    counts = Counter(digest for row in rows for digest in whole(row[column]))
    return sorted(digest for digest, count in counts.items() if count == 1)


def whole(text: str) -> set[bytes]:
    """Returns the hash of a text as a whole, without those of its lines."""
    return set(fingerprints(" ".join(text.split())))


if __name__ == "__main__":
    main()
