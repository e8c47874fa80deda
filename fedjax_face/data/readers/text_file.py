"""Text files as people save them: lists of pairs, tables, annotations."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from typing import Any, NamedTuple

from fedjax_face.data.readers.file_bytes import MOST_FILE_BYTES, read_file

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"),
          (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # UTF-32 first: its mark begins like that of UTF-16


def read_text(path: str | os.PathLike) -> str:
  """The text of a file: UTF-8, or what its byte-order mark says.

  Raises:
    ValueError: another encoding, no text, or no regular file, in one line that names the file.
    OSError: a file that cannot be read.
  """
  try:
    content = read_file(path, MOST_FILE_BYTES)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
  try:
    text = content.decode(encoding)
  except UnicodeDecodeError as error:
    raise ValueError(f"{path}: byte {error.start} is no {encoding.upper()}; save it as UTF-8 text"
                     ) from None
  if "\0" in text:
    raise ValueError(f"{path}: holds a zero byte; expected text")
  return text


def read_table(path: str | os.PathLike) -> tuple[tuple[str, ...], list[dict[str, str]]]:
  """Columns and rows of a CSV file with a header; a row that is short has empty fields.

  Raises:
    ValueError: no header, no CSV, or as `read_text`.
    OSError: a file that cannot be read.
  """
  reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
  try:
    columns, rows = tuple(reader.fieldnames or ()), list(reader)
  except csv.Error as error:
    raise ValueError(f"{path}: after line {reader.line_num}: {error}") from None
  if not columns:
    raise ValueError(f"{path}: empty; expected a header line")
  return columns, rows


class Columns(NamedTuple):
  """A table by column.

  Attributes:
    of: name -> the field of each row, text without space around it.
    row: what each row is called in messages: "line 3".
  """

  of: dict[str, list[str]]
  row: list[str]

  def __len__(self) -> int:
    return len(self.row)


def read_columns(path: str | os.PathLike, delimiter: str = ",") -> Columns:
  """A CSV file with a header, by column; empty lines are left out.

  Args:
    path: of the file.
    delimiter: between fields.

  Raises:
    ValueError: no header, a name twice in it, a line of another length, or as `read_text`.
    OSError: a file that cannot be read.
  """
  reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
  rows, numbers = [], []
  try:
    header = [name.strip() for name in next(reader, [])]
    for fields in reader:
      if any(map(str.strip, fields)):
        rows.append(fields)
        numbers.append(f"line {reader.line_num}")
  except csv.Error as error:
    raise ValueError(f"{path}: after line {reader.line_num}: {error}") from None
  if not header:
    raise ValueError(f"{path}: empty; expected a header line")
  if len(set(header)) < len(header):
    raise ValueError(f"{path}: the header names a column twice: {', '.join(header)}")
  for fields, number in zip(rows, numbers, strict=True):
    if len(fields) != len(header):
      raise ValueError(f"{path}: {number} has {len(fields)} fields; expected {len(header)}, as the "
                       "header")
  return Columns({name: [fields[place].strip() for fields in rows]
                  for place, name in enumerate(header)}, numbers)


def read_json(path: str | os.PathLike) -> Any:
  """What a JSON file holds.

  Raises:
    ValueError: no JSON, or as `read_text`.
    OSError: a file that cannot be read.
  """
  try:
    return json.loads(read_text(path))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path}: line {error.lineno}: {error.msg}") from None
  except RecursionError:
    raise ValueError(f"{path}: nested too deeply") from None
