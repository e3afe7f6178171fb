"""Writes a campaign as a file that other tools open: Parquet, CSV, or Optuna's journal."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.export import ExportError
from orchestrator.storage.reader import Reader
from orchestrator.storage.table import Kind, Table, open_table
from orchestrator.whole_file import whole_file


def write(reader: Reader, name: str, output: Path, kind: str, *, force: bool) -> int:
    """Writes a campaign's table into a file, which appears whole or not at all.

    Args:
        reader: The store.
        name: The campaign.
        output: The file; its folder is made if there is none.
        kind: `parquet`, `csv` or `optuna-journal`.
        force: Whether a file that is there is replaced.

    Returns:
        The number of candidates in it.

    Raises:
        ExportError: if the file is there already or cannot be written, or a library is missing.
        StoreError: if there is no such campaign.
    """
    if output.is_dir():
        raise ExportError(f"{str(output)!r} is a folder, expected a file to write")
    if output.exists() and not force:
        raise ExportError(f"{str(output)!r} is there already; name a new file, or use --force")
    with open_table(reader, name) as table:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(output) as part:
                return _WRITERS[kind](table, part)
        except OSError as error:
            raise ExportError(f"cannot write {str(output)!r}: {error.strerror}") from error


def _write_csv(table: Table, part: Path) -> int:
    """Writes numbers in full, times as ISO 8601, and nothing where there is nothing."""
    num, times = 0, [name for name, kind in table.columns.items() if kind == "time"]
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table.columns))
        writer.writeheader()
        for batch in table.batches:
            for row in batch:
                iso = {
                    name: row[name].isoformat(timespec="microseconds")
                    for name in times
                    if name in row
                }
                writer.writerow(row | iso)
            num += len(batch)
    return num


def _write_parquet(table: Table, part: Path) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ExportError("writing Parquet needs pyarrow: pip install pyarrow") from error
    types: Mapping[Kind, Any] = {
        "text": pa.string(),
        "integer": pa.int32(),
        "real": pa.float64(),
        "flag": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in table.columns.items()])
    num = 0
    with parquet.ParquetWriter(part, schema) as writer:
        for batch in table.batches:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            num += len(batch)
    return num


def _write_optuna(table: Table, part: Path) -> int:
    try:
        from orchestrator import optuna_journal
    except ImportError as error:
        raise ExportError(
            "writing Optuna's journal needs Optuna: pip install 'shoal[optuna]'"
        ) from error
    return optuna_journal.write(table, part)


_WRITERS: Mapping[str, Callable[[Table, Path], int]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "optuna-journal": _write_optuna,
}
