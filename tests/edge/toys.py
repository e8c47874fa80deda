"""A server that adds up what it receives, and devices that send ones."""

from __future__ import annotations

import threading
import time

import numpy as np

from fedjax_face.edge import wire
from fedjax_face.edge.contract import Contract, Exchange, Outcome, Terms
from fedjax_face.edge.service import EdgeService
from fedjax_face.edge.wire import Frame, Join
from fedjax_face.split.message import Message, Reply

DIGEST, PUBLIC, NOISE = "cd" * 32, "a1" * 32, "b2" * 32
BATCH, CLASSES, SHAPE = 2, 3, (4,)


def contract(devices=1, **others):
  return Contract(**{"shape": SHAPE, "batch": BATCH, "num_classes": CLASSES, "devices": devices,
                     "labels_are_sent": True, "largest_activation": 100.0, **others})


def message(value=1.0, device=0, **others):
  whole = Message(np.full((BATCH, *SHAPE), value, np.float32), np.array([0, 2], np.int32),
                  np.arange(BATCH, dtype=np.int32), np.int32(device))
  return whole._replace(**others)


def gradients(value=1.0, device=0):
  return Reply(np.full((BATCH, CLASSES), value, np.float32), np.arange(BATCH, dtype=np.int32),
               np.int32(device))


def add(state, received):
  """The state grows by every number received in the last exchange of the step."""
  total = float(sum(content[0].sum() for content in received[-1]))
  if total == 13 * BATCH * SHAPE[0]:
    raise FloatingPointError("thirteen\nis refused")
  return state + total, Outcome((None,) * len(received[-1]), {"loss": total})


def logits(state, received):
  return state, Outcome(tuple(Reply(np.full((BATCH, CLASSES), 0.5, np.float32), sent.example,
                                    sent.device) for sent in received[-1]), {})


ONE = (Exchange("activations", "receipt", add),)
TWO = (Exchange("activations", "logits", logits), Exchange("logit_gradients", "receipt", add))


def join_of(device=0, **others):
  return Join(**{"device": device, "config": DIGEST, "public": PUBLIC, "noise": NOISE, **others})


def kept(tokens):
  """device -> what a server keeps of its token."""
  return {device: wire.kept_digest(wire.token_digest(token)) for device, token in tokens.items()}


class Server:
  """A service with what it did: states of all steps, frames on record, lines."""

  def __init__(self, exchanges=ONE, devices=1, steps=3, seconds=20.0, step=0, tokens=None,
               begun=0, first_byte_seconds=20.0, **others):
    self.states, self.recorded, self.lines, self.noise = [], [], [], {}
    self.service = EdgeService(
        contract(devices, **others), exchanges,
        Terms(DIGEST, PUBLIC, kept(tokens or {}), seconds, self.noise.setdefault, begun,
              first_byte_seconds), 0.0, step, steps,
        lambda step, state, metrics: self.states.append((step, state)),
        lambda direction, data: self.recorded.append((direction, wire.decode(bytes(data)))),
        self.lines.append)

  def join(self, device=0, **others):
    return wire.decode_joined(self.service.join(wire.encode_join(join_of(device, **others))))

  def send(self, session, content=None, step=0, channel="activations", is_active=lambda: True):
    content = message() if content is None else content
    return self.service.send(
        session, wire.chunks(Frame(channel, session, step, content)), is_active)


class Call(threading.Thread):
  """A call in another thread; `outcome` is what it returned or raised."""

  def __init__(self, call, *arguments, **named):
    super().__init__(daemon=True)
    self._call, self.outcome = lambda: call(*arguments, **named), None
    self.start()

  def run(self):
    try:
      self.outcome = self._call()
    except Exception as error:
      self.outcome = error

  def result(self):
    self.join(200)
    assert not self.is_alive(), "the call hangs"
    return self.outcome


def wait_until(condition):
  deadline = time.monotonic() + 100
  while not condition():
    assert time.monotonic() < deadline, "never came to be"
    time.sleep(0.01)
