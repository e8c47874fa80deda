"""Silos: which data holder has which people, and the orders that make unequal silos cheap."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.file_bytes import one_spelling
from fedjax_face.draws import Draws, identity_of

GIVEN = "given which silo holds whom"
_AT = "method.clients.partition"
_KEYS = ("by", "num_silos", "concentration", "attribute", "path")


class Silos(NamedTuple):
  """Every person of a data set in exactly one of K silos, of which some may be empty.

  Attributes:
    silo: int32 [N], silo of each row, 0..K-1; `Users.of_silos(silo, K)` is the index of the silos.
    names: name of each silo, K of them.
    notes: sentences for the record.
    words: how people came to their silos, for the privacy statement: a guarantee for a person holds
      only where nobody else moves when the person leaves.
  """

  silo: np.ndarray
  names: tuple[str, ...]
  notes: tuple[str, ...] = ()
  words: str = GIVEN

  @property
  def num_silos(self) -> int:
    """K."""
    return len(self.names)


_EACH_ALONE = ("each person's silo drawn from the person's identity alone, so that who leaves "
               "moves nobody else")


class ClassRows(NamedTuple):
  """Classes of unequal silos packed into one table of C rows, without padding.

  The classes of silo k are rows offset[k]..offset[k + 1], in ascending order of label: the order
  in which `cohorts.client_batches(classes='own')` numbers them.

  Attributes:
    owner: int32 [C], silo of each row.
    label: int32 [C], label of each row.
    offset: int64 [K + 1].
  """

  owner: np.ndarray
  label: np.ndarray
  offset: np.ndarray


def partition(options: Mapping[str, Any], dataset: FaceDataset, draws: Draws) -> Silos:
  """Deals the people of a data set to silos.

  Args:
    options: `by` and what it needs; other keys of this list may be there and are ignored.
      by='random': `num_silos`; each person's silo is drawn uniformly from the person's identity
        alone, so numbers of people differ, and a silo may be empty.
      by='dirichlet': `num_silos`, `concentration`; the same, with shares of the silos that are one
        draw of a symmetric Dirichlet distribution.
      by='attribute': `num_silos`, `attribute` ('gender' or a key of `dataset.attributes`); people
        in ascending order of the mean of their known values, ties shuffled, are cut into
        consecutive groups whose sizes differ by at most one. People of unknown value are refused.
        The cuts depend on everybody, so a guarantee holds given which silo holds whom.
      by='file': `path` of a CSV with header `person,client` that names every person of `dataset`,
        by name or, where persons have no names, by number in their source; it may name others,
        who do not train. Silos are numbered in the order in which the file first names them. A
        guarantee holds given which silo holds whom.
    dataset: whose people.
    draws: of the split into silos.

  Raises:
    ValueError: an unknown key or value, more silos than people, people of unknown attribute, or a
      file that does not put every person into exactly one silo.
    FileNotFoundError: no such file.
  """
  unknown = sorted(set(options) - set(_KEYS))
  if unknown:
    raise ValueError(f"{_AT}.{unknown[0]} is not a key; expected some of {', '.join(_KEYS)}")
  if options.get("by") not in _WAYS:
    raise ValueError(f"{_AT}.by is {options.get('by')!r}; expected one of {', '.join(_WAYS)}")
  persons, inverse = np.unique(dataset.person, return_inverse=True)
  identity = dataset.identities[np.unique(inverse, return_index=True)[1]]
  of_person, names = _WAYS[options["by"]](options, dataset, persons, identity, draws)
  silo = of_person[inverse].astype(np.int32)
  words = _EACH_ALONE if options["by"] in ("random", "dirichlet") else GIVEN
  return Silos(silo, names, _notes(silo, dataset.label, names), words)


def class_rows(silo: np.ndarray, label: np.ndarray, num_silos: int) -> ClassRows:
  """The table of the classes of all silos, sorted by silo, then by label.

  Args:
    silo: integers [N], 0..K-1.
    label: integers [N].
    num_silos: K; some may have no class.

  Raises:
    ValueError: a label that two silos hold.
  """
  owner, classes = _held(silo, label)
  different, times = np.unique(classes, return_counts=True)
  if (times > 1).any():
    shared = different[times > 1]
    raise ValueError(f"label(s) held by several silos: {_few(shared)}; {len(shared)} in all; "
                     f"first held by silos {_few(owner[classes == shared[0]])}; "
                     "expected each label in one silo")
  offset = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=num_silos))])
  return ClassRows(owner.astype(np.int32), classes.astype(np.int32), offset.astype(np.int64))


def order_by_size(counts: np.ndarray, chunk: int) -> np.ndarray:
  """The order of clients in which consecutive chunks waste least: largest first.

  Args:
    counts: integers [K], examples of each client; 0 = empty slot.
    chunk: clients that run side by side until the largest of them is done.

  Returns:
    int64 [K], a permutation; clients of equal size keep their order.

  Raises:
    ValueError: `chunk` does not divide the number of clients.
  """
  _check_chunk(counts, chunk)
  return np.argsort(-np.asarray(counts, np.int64), kind="stable")


def padding_waste(counts: np.ndarray, batch_size: int, chunk: int) -> float:
  """Fraction of the computed examples that are padding, for clients in the order given.

  Every client of a chunk computes as many batches as the largest of the chunk has.

  Args:
    counts: integers [K], examples of each client; 0 = empty slot.
    batch_size: examples of a batch.
    chunk: clients that run side by side.

  Raises:
    ValueError: no examples, a batch size below 1, or `chunk` does not divide the number of clients.
  """
  _check_chunk(counts, chunk)
  counts = np.asarray(counts, np.int64)
  if batch_size < 1:
    raise ValueError(f"batch_size is {batch_size}; expected at least 1")
  if not counts.sum():
    raise ValueError(f"{len(counts)} clients without examples; expected at least one example")
  steps = -(-counts.reshape(-1, chunk).max(1) // batch_size)
  return 1 - float(counts.sum() / (steps.sum() * batch_size * chunk))


_Dealt = tuple[np.ndarray, tuple[str, ...]]  # silo of each person, name of each silo


def _random(options, dataset: FaceDataset, persons: np.ndarray, identity: np.ndarray,
            draws: Draws) -> _Dealt:
  num_silos = _num_silos(options, dataset, len(persons))
  return draws.groups(identity, num_silos, "silo"), _numbered(num_silos)


def _dirichlet(options, dataset: FaceDataset, persons: np.ndarray, identity: np.ndarray,
               draws: Draws) -> _Dealt:
  num_silos = _num_silos(options, dataset, len(persons))
  concentration = _required(options, "concentration")
  if not (isinstance(concentration, (int, float)) and 0 < concentration < math.inf):
    raise ValueError(f"{_AT}.concentration is {concentration!r}; expected a number above 0")
  shares = draws.generator(0, "shares of silos").dirichlet(np.full(num_silos, concentration))
  edges = np.cumsum(shares)[:-1]
  return np.searchsorted(edges, draws.uniform(identity, "silo"), "right"), _numbered(num_silos)


def _by_attribute(options, dataset: FaceDataset, persons: np.ndarray, identity: np.ndarray,
                  draws: Draws) -> _Dealt:
  num_silos = _num_silos(options, dataset, len(persons))
  attribute = _required(options, "attribute")
  value = _mean_by_person(dataset.person, dataset.attribute(attribute), persons)
  unknown = persons[np.isnan(value)]
  if unknown.size:
    raise ValueError(f"{dataset.name}: {attribute} of {len(unknown)} person(s) is unknown: "
                     f"{_few(_person_names(dataset, unknown))}; expected a value for everybody")
  silo = np.empty(len(persons), np.int64)
  silo[np.lexsort((draws.bits(identity, "silo"), value))] = (
      np.arange(len(persons)) * num_silos // len(persons))
  return silo, _numbered(num_silos)


def _from_file(options, dataset: FaceDataset, persons: np.ndarray, identity: np.ndarray,
               draws: Draws) -> _Dealt:
  del draws
  path = pathlib.Path(_required(options, "path"))
  clients = _read_clients(path)
  people = _person_names(dataset, persons)
  if len(set(people)) < len(people):
    raise ValueError(f"{dataset.name}: several persons have one name; expected different names")
  listed = dict(zip(identity_of(clients).tolist(), clients, strict=True))
  known = [listed.get(own) for own in identity.tolist()]
  named = dataset.person_names or (dataset.persons_are_labels and dataset.names)
  if not named and any(known):  # numbered anew since they were read; identities stay
    people = [own or f"person {name} of those who train" for own, name in zip(
        known, people, strict=True)]
  without = [p for p in people if p not in clients]
  if without:
    raise ValueError(f"{path}: {len(without)} person(s) without a client: {_few(without)}; "
                     f"expected one for everybody in {dataset.name}")
  number = {client: k for k, client in enumerate(dict.fromkeys(clients.values()))}
  return np.array([number[clients[p]] for p in people], np.int64), tuple(number)


_WAYS: Mapping[str, Callable[..., _Dealt]] = {
    "random": _random, "dirichlet": _dirichlet, "attribute": _by_attribute, "file": _from_file,
}


def _read_clients(path: pathlib.Path) -> dict[str, str]:
  """Client of each person of a CSV file, in file order."""
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist; expected a CSV file with header person,client")
  clients: dict[str, str] = {}
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file)
      header = [field.strip() for field in next(reader, [])]
      if header != ["person", "client"]:
        raise ValueError(f"{path}: header is {','.join(header)!r}; expected person,client")
      for row in reader:
        if row:
          _add_client(clients, [field.strip() for field in row], f"{path}: line {reader.line_num}")
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None
  return clients


def _add_client(clients: dict[str, str], row: list[str], place: str) -> None:
  """Adds one line of the file, which must not contradict the lines before it."""
  if len(row) != 2 or not all(row):
    raise ValueError(f"{place} is {','.join(row)!r}; expected a person and a client")
  person, client = one_spelling(row[0]), row[1]
  if clients.setdefault(person, client) != client:
    raise ValueError(f"{place}: person {person} is with both {clients[person]} and {client}; "
                     "expected one client per person")


def _mean_by_person(person: np.ndarray, value: np.ndarray, persons: np.ndarray) -> np.ndarray:
  """float64 [P], mean of the values that are not NaN, NaN where a person has none."""
  known = ~np.isnan(value)
  row = np.searchsorted(persons, person[known])
  total = np.bincount(row, value[known], minlength=len(persons))
  count = np.bincount(row, minlength=len(persons))
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _notes(silo: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
  """A sentence if some silo is empty, or the softmax of some would have a single class."""
  owner, _ = _held(silo, label)
  count = np.bincount(owner, minlength=len(names))
  found = {classes: [names[k] for k in np.flatnonzero(count == classes)] for classes in (0, 1)}
  says = {0: "hold nobody ({}) and take part with an update of zero",
          1: "hold a single class ({}): softmax over one class has no gradient"}
  return tuple(f"{len(some)} of {len(names)} silos {says[classes].format(_few(some))}"
               for classes, some in found.items() if some)


def _held(silo: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(silo, label) of every class that a silo holds, sorted by silo, then by label."""
  width = int(np.max(label, initial=0)) + 1
  return np.divmod(np.unique(np.asarray(silo, np.int64) * width + label), width)


def _person_names(dataset: FaceDataset, persons: np.ndarray) -> list[str]:
  """Names, or numbers where persons have no names."""
  names = dataset.person_names or (dataset.names if dataset.persons_are_labels else ())
  return [one_spelling(names[p]) if names else str(p) for p in persons]


def _num_silos(options: Mapping[str, Any], dataset: FaceDataset, num_persons: int) -> int:
  value = _required(options, "num_silos")
  if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not (
      1 <= value <= num_persons):
    raise ValueError(f"{_AT}.num_silos is {value!r}; expected a whole number, 1 to {num_persons} "
                     f"(the people of {dataset.name})")
  return int(value)


def _required(options: Mapping[str, Any], key: str) -> Any:
  if options.get(key) in (None, ""):
    raise ValueError(f"{_AT}.{key} is required where {_AT}.by is {options['by']!r}")
  return options[key]


def _check_chunk(counts: np.ndarray, chunk: int) -> None:
  if chunk < 1 or not len(counts) or len(counts) % chunk:
    raise ValueError(f"chunk is {chunk} for {len(counts)} clients; expected a divisor "
                     "(fill up with clients of 0 examples)")


def _numbered(count: int) -> tuple[str, ...]:
  return tuple(f"silo{k}" for k in range(count))


def _few(names: Sequence[Any] | np.ndarray) -> str:
  """The first few of a list."""
  return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
