"""Server and device of a run over the wire, killed between any two changes on disk, in every mode.

A side is killed at the 2nd, 5th, 9th, ... change of its lives: what it wrote until then is all that
its next life has.
"""

import csv
import dataclasses
import functools
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from fedjax_face.edge import wire
from fedjax_face.edge.contract import Terms
from fedjax_face.edge.halves import server_exchanges, server_part
from fedjax_face.edge.service import EdgeService
from fedjax_face.edge.wire import Frame, Join
from fedjax_face.privacy import statement
from fedjax_face.runs import checkpoint, disk
from fedjax_face.runs.edge_device import DeviceFiles
from fedjax_face.runs.edge_folder import Prepared, Statement
from fedjax_face.runs.edge_server_files import ServerFiles
from fedjax_face.runs.records import CsvFile
from fedjax_face.split.accounting import MODES
from fedjax_face.split.labels import LabelPolicy
from fedjax_face.split.message import PADDING
from tests.edge.tiny import PSEUDONYM, accounted_once, make_parts

CONFIG = "cd" * 32
LABELS = {"u_shaped": LabelPolicy("u_shaped", noise_multiplier=1.0)}
KINDS = [*MODES, "u_shaped"]  # the last: labels stay on the device, of which the part is frozen


class Killed(BaseException):
  """The side of the run that is no more."""


def heard(line):
  """A whole checkpoint that is found beside its place is no damage, nor is a row past it."""
  if "its place" not in line:
    pytest.fail(line)


class Killer:
  """Raises at some changes in the folder of one side."""

  def __init__(self, side=None):
    self._side, self._left, self._next = side, 2, itertools.count(3)
    self.kills = 0

  def __call__(self, change, path):
    parts = pathlib.Path(path).parts
    if self._side is None or self._side not in parts:
      return
    self._left -= 1
    if not self._left:
      self._left, self.kills = next(self._next), self.kills + 1
      raise Killed(self._side)


@functools.cache
def parts_of(kind):
  mode = "frozen_cached" if kind == "u_shaped" else kind
  parts = make_parts(mode, LABELS.get(kind, PSEUDONYM), devices=1)
  parts = dataclasses.replace(parts, checkpoint_every=parts.messages)
  return parts, server_exchanges(parts)


class Run:
  """A server and a device in a folder, and every frame that the device sent."""

  def __init__(self, folder, kind):
    self.folder, self.sent = folder, []
    self.parts, self._exchanges = parts_of(kind)
    self._start = {"server": self._server, "device": self._device}
    self._lives = {}

  def to_end(self):
    while len(self._lives) < 2 or self._service._step < self.parts.steps:
      try:
        for side in self._start:
          if side not in self._lives:
            self._lives[side] = self._start[side]()
        self._take_part()
      except Killed as killed:
        (side,) = killed.args
        self._lives.pop(side, None)
        self.require_true_statements()

  @property
  def _service(self):
    return self._lives["server"]

  def _server(self):
    place = self.folder / "server"
    disk.make_folder(place)
    files = ServerFiles(place, self.parts, CONFIG,
                        Statement(place, self.parts, "the server", ()).cover, heard)
    return EdgeService(
        self.parts.contract(), self._exchanges,
        Terms(CONFIG, files.public, {}, 20.0, files.first_noise, files.asked_for), files.state,
        files.step, self.parts.steps, files.finished_step)

  def _device(self):
    disk.make_folder(self.folder / "device")
    return DeviceFiles(Prepared(self.folder / "device", self.parts, CONFIG), 0, heard)

  def _take_part(self):
    own = self._lives["device"]
    joined = wire.decode_joined(self._service.join(wire.encode_join(Join(
        0, CONFIG, own.public, own.journal.shown(CONFIG), begun=own.steps_to_repeat))))

    def exchange(channel, step, content):
      frame = Frame(channel, joined.session, step, content)
      self.sent.append(frame)
      return self._service.send(joined.session, wire.chunks(frame))

    for step in range(joined.step, joined.steps):
      own.device.train(step, exchange)
      own.finished_step(step + 1)

  def require_true_statements(self):
    begun = self.parts.passes_begun(max((frame.step + 1 for frame in self.sent), default=0))
    for side in ("server", "device"):
      if begun or (self.folder / side / "privacy.json").exists():
        assert min(steps_said(self.folder / side)) >= begun


def steps_said(folder):
  said = json.loads((folder / "privacy.json").read_text())
  return {channel["steps"] for unit in said["units"] for channel in unit["channels"]}


def rows_sent(run):
  """(channel, step, example) -> the different values that were sent of it, zeros left out."""
  found = {}
  for frame in run.sent:
    for example, values in zip(frame.content.example, frame.content[0], strict=True):
      if example != PADDING and np.any(values):
        found.setdefault((frame.channel, frame.step, int(example)), set()).add(values.tobytes())
  return found


@pytest.fixture
def killing(monkeypatch):
  """killing(side): a `Killer` of that side at changes on disk, checkpoints and rows of metrics."""

  def started(side):
    killer, save, write_rows = Killer(side), checkpoint.save, CsvFile.write_rows

    def saved(folder, *arguments, **named):
      killer("checkpoint", folder)
      save(folder, *arguments, **named)
      killer("checkpoint saved", folder)

    def written(table, rows):
      killer("rows", table._path)
      write_rows(table, rows)

    monkeypatch.setattr(statement, "privacy_json", accounted_once)
    monkeypatch.setattr(disk, "watched", killer)
    monkeypatch.setattr(checkpoint, "save", saved)
    monkeypatch.setattr(CsvFile, "write_rows", written)
    return killer

  return started


@pytest.mark.parametrize("side", ["server", "device"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_side_that_is_killed_again_and_again_ends_the_run_whole(kind, side, killing, tmp_path):
  killer, run = killing(side), Run(tmp_path, kind)
  run.to_end()
  parts = run.parts
  assert killer.kills >= 3
  end = checkpoint.restore(tmp_path / "server/checkpoints", server_part(parts), heard)
  assert end.round == parts.steps and end.ledger == parts.ledger(parts.steps).to_json()
  with open(tmp_path / "server/metrics.csv") as file:
    assert [row["round"] for row in csv.DictReader(file)] == list("1234")
  assert steps_said(tmp_path / "server") == steps_said(tmp_path / "device") == {parts.passes}
  sent = rows_sent(run)
  assert sent and all(len(values) == 1 for values in sent.values())  # no noise met two values
  if parts.repeats_everything:
    killing(None)
    whole = Run(tmp_path / "whole", kind)
    whole.to_end()
    other = checkpoint.restore(tmp_path / "whole/server/checkpoints", end.state, heard)
    for a, b in zip(jax.tree.leaves(end.state), jax.tree.leaves(other.state), strict=True):
      np.testing.assert_array_equal(a, b)
    assert ((tmp_path / "server/metrics.csv").read_bytes()
            == (tmp_path / "whole/server/metrics.csv").read_bytes())
