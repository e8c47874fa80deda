"""The parts of a config: alike in every process, and private images where they belong only."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import flax.linen as nn
import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data.sets import Data
from fedjax_face.models.dense import Dense
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import checkpoint, edge
from fedjax_face.runs.asked import Asked
from fedjax_face.split.holders import devices
from fedjax_face.split.message import PADDING
from tests.edge.tiny_runs import known_people


class Tiny(nn.Module):
  """A backbone that compiles in no time."""

  embedding_dim: int

  @nn.compact
  def __call__(self, x):
    """Maps float [B, H, W, C] to [B, D]."""
    return Dense(self.embedding_dim, name="embedding")(nn.avg_pool(x, (3, 3), (3, 3)).reshape(
        len(x), -1))


def people_of(world):
  """Random images of 4 people, 5 of each."""
  images = np.random.default_rng(world).integers(0, 256, (20, 6, 6, 1)).astype(np.uint8)
  return ff.faces(images, [f"{world}-{p}" for p in np.repeat(np.arange(4), 5)],
                  name=f"world{world}")


def sources():
  """Four images of each of 4 people train."""
  return known_people(people_of(0), people_of(1))


LOADED = []
"""Weak references to every private image array that `build` loads."""


@ff.register.data
def people_of_edge_build() -> Data:
  """As `sources`, noted in `LOADED`."""
  def load():
    found = sources()
    LOADED.extend(weakref.ref(part.images) for part in (found.train, found.evaluation))
    return found

  return Data(load, feeds="classes")


def asked(**parts):
  """16 images train on two devices, projected onto 3 public directions, the clip norm public."""
  method = ff.dp_activations(**{
      "backbone": Tiny(8), "split": ff.splits.cut(projection=3),
      "activations": ff.activations.clipped_noise(noise_multiplier=1.0),
      "device": ff.devices.frozen_cached(), "clients": devices(number=2, batch_size=3)} | parts)
  return Asked.of_arguments({"method": method, "data": people_of_edge_build(), "rounds": 2})


def algorithm_of(**parts):
  return asked(**parts).experiment().algorithm


@pytest.fixture
def loaded():
  """`LOADED`, empty."""
  LOADED.clear()
  return LOADED


def test_the_server_keeps_no_private_image(loaded):
  kept = asked()
  parts = edge.build(kept)
  gc.collect()
  assert len(loaded) == 2 and [images() for images in loaded] == [None, None]
  for call in (lambda: parts.device_data(0), lambda: parts.rows(0, 0)):
    with pytest.raises(ValueError, match="data of device 0: these parts are those of the server"):
      call()
  assert parts.public_digest() and parts.ledger(0).entries and parts.contract().devices == 2


def test_a_device_keeps_its_own_images_and_sends_each_once_in_a_pass(loaded):
  whole = sources().train
  kept = asked()
  server, parts = edge.build(kept), [edge.build(kept, device) for device in (0, 1)]
  gc.collect()
  assert {images() for images in loaded} == {None}
  own = [part.device_data(device) for device, part in enumerate(parts)]
  assert sum(len(held.images) for held in own) == len(whole)
  labelled = {image.tobytes(): label for image, label in zip(whole.images, whole.label,
                                                             strict=True)}
  for device, (part, held) in enumerate(zip(parts, own, strict=True)):
    assert [labelled[image.tobytes()] for image in held.images] == list(held.labels)
    sent = np.concatenate([part.rows(device, step) for step in range(part.messages)])
    assert sorted(sent[sent != PADDING]) == list(range(len(held.images)))
    assert part.public_digest() == server.public_digest()
    with pytest.raises(ValueError, match=f"data of device {1 - device}: .* those of device "):
      part.device_data(1 - device)


def test_the_statements_of_both_programs_say_that_the_server_reads_the_images():
  (sentence,) = edge.NOT_COVERED
  assert "the server's too" in sentence
  for device in (None, 0):
    assert sentence in edge.build(asked(), device).ledger(0).not_covered
  assert sentence not in asked().experiment().ledger.not_covered


@pytest.mark.parametrize("device", [-1, 2])
def test_there_are_no_other_devices(device):
  with pytest.raises(ValueError, match=f"device {device}: devices are numbered 0 to 1"):
    edge.build(asked(), device)


def save_server(algorithm, folder):
  """A checkpoint of a server after three steps, and the state in it."""
  server, ledger = jax.tree.map(np.asarray, algorithm.init(jax.random.key(1)).server), Ledger()
  for release in algorithm.releases:
    ledger.record(release, 3)
  checkpoint.save(folder / "checkpoints",
                  checkpoint.Checkpoint(3, server, ledger.to_json(), "", ""))
  return server


def test_other_public_parts_than_those_of_the_run_are_refused(tmp_path):
  """As on a machine where the same pre-training ends elsewhere."""
  algorithm = algorithm_of()
  save_server(algorithm, tmp_path)
  edge.write_server_record(
      tmp_path, edge.ServerRecord(edge.build(asked()).public_digest(), 3))
  moved = jax.tree.map(lambda leaf: leaf * np.float32(1 + 1e-6), algorithm.parts.device)
  for name, others in (("device", moved), ("clip_norm", algorithm.parts.clip_norm * 1.01)):
    other = dataclasses.replace(algorithm, parts=algorithm.parts._replace(**{name: others}))
    with pytest.raises(ValueError, match="public parts .* are not those of its run") as error:
      edge.restored_state(other, tmp_path, pytest.fail)
    assert "\n" not in str(error.value)
  (tmp_path / "server.json").write_text('{"public": "no digest"}')
  with pytest.raises(ValueError, match="server.json is damaged"):
    edge.restored_state(algorithm, tmp_path, pytest.fail)


@pytest.mark.parametrize("record", [None, edge.ServerRecord(None, 3)])
def test_a_run_without_a_digest_is_restored_and_that_is_said(record, tmp_path):
  algorithm = algorithm_of()
  save_server(algorithm, tmp_path)
  if record is not None:
    edge.write_server_record(tmp_path, record)
    assert edge.server_record(tmp_path) == record
  said = []
  assert edge.restored_state(algorithm, tmp_path, said.append) is not None
  assert len(said) == 1 and "no digest of the public parts" in said[0] and "\n" not in said[0]


def test_a_server_alone_cannot_restore_what_its_devices_trained(tmp_path):
  """A frozen device part comes from the config; a trained one is nowhere on the server."""
  algorithm = algorithm_of()
  assert edge.restored_state(algorithm, tmp_path, pytest.fail) is None
  server = save_server(algorithm, tmp_path)
  edge.write_server_record(
      tmp_path, edge.ServerRecord(edge.build(asked()).public_digest(), 3))
  done, state, ledger = edge.restored_state(algorithm, tmp_path, pytest.fail)
  assert done == 3 and [times for _, times in ledger.entries] == [3] * len(algorithm.releases)
  jax.tree.map(np.testing.assert_array_equal, state.server, server)
  jax.tree.map(np.testing.assert_array_equal, state.device.params, algorithm.parts.device)

  trained = algorithm_of(device=ff.devices.trained_published())
  with pytest.raises(ValueError, match="method.device=trained_published: the trained parts"):
    edge.restored_state(trained, tmp_path, pytest.fail)


def test_another_method_is_refused():
  wrong = Asked.of_config({"method": {"name": "dp_fedemb"}, "data": {"name": "synthetic_faces"},
                           "rounds": 2})
  with pytest.raises(ValueError, match="method=dp_fedemb: the edge programs run dp_activations"):
    edge.build(wrong)
