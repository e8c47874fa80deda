"""A run outlives a fault at any change on the disk: some here, all by `make test-faults`."""

import random
import secrets

import pytest

from fedjax_face.runs import checkpoint_folder, disk, secret_roots
from tests.faults import points, subjects
from tests.faults.power import Disk

SEED = secrets.randbits(32)


@pytest.fixture(scope="module", params=subjects.NAMES)
def whole(request, tmp_path_factory):
  subject = subjects.subject(request.param)
  return subject, *subject.points(tmp_path_factory.mktemp(request.param) / "run")


@pytest.mark.parametrize("kind", ["a process or the power", "a call"])
def test_a_fault_at_random_is_survived(whole, tmp_path, kind):
  subject, every, expected = whole
  chosen = random.Random(f"{SEED} {kind}")
  fault = chosen.choice(points.FAULTS[:2] if kind != "a call" else points.FAULTS[2:])
  point = random.Random(f"{SEED} {fault} {len(every)}").choice(every)
  outcome = subject.tried(tmp_path / "run", point, fault, expected)
  assert outcome is None or outcome.verdict == "survived", (point, outcome, SEED)


# What breaks it is seen.

def tried(tmp_path, fault, chosen):
  subject = subjects.subject("dp_fedemb")
  every, expected = subject.points(tmp_path / "whole")
  return [subject.tried(tmp_path / str(i), point, fault, expected).verdict
          for i, point in enumerate(point for point in every if chosen(point))]


def test_a_checkpoint_that_is_not_synced_is_lost_in_a_power_cut(tmp_path, monkeypatch):
  late = lambda point: (point.change, point.place) == ("append", "metrics.csv")
  assert set(tried(tmp_path / "a", "power", late)) == {"survived"}
  monkeypatch.setattr(disk, "sync_tree", lambda folder: None)
  assert "lost" in tried(tmp_path / "b", "power", late)


def test_roots_that_are_drawn_anew_are_seen(tmp_path, monkeypatch):
  late = lambda point: (point.change, point.place) == ("append", "metrics.csv")
  monkeypatch.setattr(secret_roots, "_obtain",
                      lambda folder, must_exist: secret_roots.Roots(
                          secret_roots.streams.secret_root(), secret_roots.streams.secret_root()))
  assert set(tried(tmp_path, "kill", late)) == {"lost"}


def test_a_checkpoint_removed_before_its_successor_is_whole_is_seen(tmp_path, monkeypatch):
  def removed_first(folder, number):
    for path in folder.iterdir():
      if path.name.isdigit():
        disk.remove(path)
    disk.rename(checkpoint_folder.place(folder, checkpoint_folder.PARTIAL, number),
                checkpoint_folder.place(folder, checkpoint_folder.IN_PLACE, number))

  monkeypatch.setattr(checkpoint_folder, "put_in_place", removed_first)
  monkeypatch.setattr(checkpoint_folder, "adopt", lambda folder, warn=None: None)
  late = lambda point: (point.change, point.place) == ("rename", "checkpoints/00000004")
  # The partial one is whole, so a kill is survived even so; a power cut after a rename without
  # a sync of the folder is not.
  monkeypatch.setattr(disk, "sync_folder", lambda folder: None)
  assert set(tried(tmp_path, "power", late)) == {"lost"}


def test_a_power_cut_leaves_what_was_synced(tmp_path):
  root = tmp_path / "run"
  power = Disk(root)
  disk.watched, before = power.told, disk.watched
  try:
    disk.make_folder(root)
    disk.write(root / "synced", "one")
    disk.append(root / "synced", " two")
    disk.told("over", root)  # what was told last has been done
    (root / "unsynced").write_text("lost")
    with open(root / "synced", "a") as file:
      file.write(" three")
  finally:
    disk.watched = before
  power.cut()
  assert [path.name for path in root.iterdir()] == ["synced"]
  assert (root / "synced").read_text() == "one two"
