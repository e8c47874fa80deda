"""Who holds whose images, as a part: people spread over devices, and the messages of a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import numpy as np

from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws, part_identities
from fedjax_face.options import at_least, register


class Held(NamedTuple):
  """A training set that lies on devices.

  Attributes:
    owner: int [P], the device of every person.
    images: int [K], of each device.
    messages: of a device in a pass.
    cohort: (draws, round) -> Cohort of examples [K, messages, B]: all images of every device, once.
  """

  owner: np.ndarray
  images: np.ndarray
  messages: int
  cohort: Callable[[Draws, int], Cohort]


class Devices(NamedTuple):
  """Which device holds whom.

  Attributes:
    number: K, of devices.
    batch_size: B, images of a device in a message.
    holding: (training set, public seed) -> Held; raises ValueError where there are fewer people
      than devices. It keeps labels and identities of the set, but no image.
  """

  number: int
  batch_size: int
  holding: Callable[[FaceDataset, int], Held]


register.kind(Devices)


@register.devices
def devices(*, number: Annotated[int, at_least(1)] = 1,
            batch_size: Annotated[int, at_least(1)] = 32) -> Devices:
  """Equal numbers of people on every device, spread by the public seed.

  They are spread by rank: a replaced person's replacement goes where that person was, and the claim
  is for replace-one alone.

  Args:
    number: K, of devices; at most one for each person.
    batch_size: B, images of a device in a message.
  """
  return Devices(number, batch_size,
                 lambda train, seed: _held(train, seed, number, batch_size))


def _held(train: FaceDataset, seed: int, number: int, batch: int) -> Held:
  if number > train.num_persons:
    raise ValueError(f"method.clients.number={number}: expected 1 to {train.num_persons}, the "
                     "number of people")
  persons, first = np.unique(train.person, return_index=True)
  order = Draws.of((seed, number)).order(train.identities[first], "device")
  owner = np.zeros(int(train.person.max()) + 1, np.int64)
  owner[persons[order]] = np.arange(len(persons)) % number
  of_image = owner[train.person]
  rows = [np.flatnonzero(of_image == device) for device in range(number)]
  images = np.bincount(of_image, minlength=number)
  messages = -(-int(images.max()) // batch)
  return Held(owner, images, messages, _passes(
      rows, part_identities(train.identities), train.label, train.num_labels, messages, batch))


def _passes(rows: Sequence[np.ndarray], identity: np.ndarray, label: np.ndarray, classes: int,
            messages: int, batch: int) -> Callable[[Draws, int], Cohort]:
  """Every device's rows in an order of its own for every pass, padded to whole messages."""

  def cohort(draws: Draws, round_number: int) -> Cohort:
    examples = np.zeros((len(rows), messages * batch), np.int32)
    mask = np.zeros_like(examples, bool)
    for device, own in enumerate(rows):
      order = draws.order(identity[own], "order", round_number)
      examples[device, :len(own)], mask[device, :len(own)] = own[order], True
    shape = (len(rows), messages, batch)
    return Cohort(examples.reshape(shape), label[examples].astype(np.int32).reshape(shape),
                  mask.reshape(shape), np.full(len(rows), classes, np.int32),
                  np.arange(len(rows), dtype=np.int32))

  return cohort
