"""Writes a campaign as a file that other tools open: Parquet, CSV, or Optuna's journal.

Either a row for each candidate, or one for each document that a candidate was scored on.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from evaluators.whole_file import whole_file
from orchestrator.exporting.model_folder import ExportError
from orchestrator.storage.document_rows import COLUMNS, open_documents
from orchestrator.storage.gene_columns import Kind
from orchestrator.storage.reader import Reader
from orchestrator.storage.table import Table, open_table


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
    _check(output, force=force)
    with open_table(reader, name) as table, _new(output) as part:
        if kind == "optuna-journal":
            return _write_optuna(table, part)
        return _WRITERS[kind](table.columns, table.batches, part)


def write_documents(reader: Reader, name: str, output: Path, kind: str, *, force: bool) -> int:
    """Writes what every document gave into a file, which appears whole or not at all.

    Args:
        reader: The store.
        name: The campaign.
        output: The file; its folder is made if there is none.
        kind: `parquet` or `csv`.
        force: Whether a file that is there is replaced.

    Returns:
        The number of rows in it: a document counts as often as it was scored.

    Raises:
        ExportError: if the file is there already or cannot be written, a library is missing, or
            the format has no place for documents.
        StoreError: if there is no such campaign.
    """
    if kind not in _WRITERS:
        raise ExportError(
            f"the format {kind!r} has no place for documents; use one of {', '.join(_WRITERS)}"
        )
    _check(output, force=force)
    with open_documents(reader, name) as batches, _new(output) as part:
        return _WRITERS[kind](COLUMNS, batches, part)


def _check(output: Path, *, force: bool) -> None:
    if output.is_dir():
        raise ExportError(f"{str(output)!r} is a folder, expected a file to write")
    if output.exists() and not force:
        raise ExportError(f"{str(output)!r} is there already; name a new file, or use --force")


@contextmanager
def _new(output: Path) -> Iterator[Path]:
    """Gives a file to write that takes the output's place once it is whole."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as part:
            yield part
    except OSError as error:
        raise ExportError(f"cannot write {str(output)!r}: {error.strerror}") from error


#: Rows as column -> value, without what is missing.
_Batches: TypeAlias = Iterable[list[dict[str, Any]]]


def _write_csv(columns: Mapping[str, Kind], batches: _Batches, part: Path) -> int:
    """Writes numbers in full, times as ISO 8601, and nothing where there is nothing."""
    num, times = 0, [name for name, kind in columns.items() if kind == "time"]
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        for batch in batches:
            for row in batch:
                iso = {
                    name: row[name].isoformat(timespec="microseconds")
                    for name in times
                    if name in row
                }
                writer.writerow(row | iso)
            num += len(batch)
    return num


def _write_parquet(columns: Mapping[str, Kind], batches: _Batches, part: Path) -> int:
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
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    num = 0
    with parquet.ParquetWriter(part, schema) as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            num += len(batch)
    return num


def _write_optuna(table: Table, part: Path) -> int:
    try:
        from orchestrator.exporting import optuna_journal
    except ImportError as error:
        raise ExportError(
            "writing Optuna's journal needs Optuna: pip install 'shoal[optuna]'"
        ) from error
    return optuna_journal.write(table, part)


#: Of the formats, those that hold any table.
_WRITERS: Mapping[str, Callable[[Mapping[str, Kind], _Batches, Path], int]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
}
