"""Cost of a cut, counted by hand."""

from __future__ import annotations

import math

import pytest

from fedjax_face.models.mobilenet import MobileNetV2
from fedjax_face.models.vgg_face import VGGFace
from fedjax_face.split.cost import (
  cost_table,
  device_cost,
  device_costs,
  device_line,
  measured,
  recorded,
)
from fedjax_face.split.network import Classifier, split_network
from tests.split import tiny


def test_first_convolution_of_vgg_face():
  network = Classifier(VGGFace(), 2622)
  cost, = device_costs(network, (224, 224, 3), ["conv1_1"])
  assert cost.shape == (224, 224, 64)
  assert cost.parameters == 1792
  assert cost.flops == 2 * 224 * 224 * 9 * 3 * 64
  assert cost.activation_bytes == 4 * 3_211_264
  assert cost.message_bytes == 4 * 3_211_264 + 8 + 4
  assert math.isnan(cost.seconds)


def test_costs_of_every_cut_by_hand():
  conv0, conv1 = 36 * 9 * 4, 16 * 9 * 4 * 8
  embedding = 2 * 2 * 8 * 6
  costs = device_costs(tiny.NETWORK, tiny.SHAPE)
  assert [cost.cut for cost in costs] == ["conv0", "conv1", "embedding"]
  assert [cost.flops for cost in costs] == [
      2 * conv0, 2 * (conv0 + conv1), 2 * (conv0 + conv1 + embedding)]
  assert [cost.parameters for cost in costs] == [40, 40 + 296, 40 + 296 + 32 * 6 + 6]


def test_depthwise_convolutions_count_once_a_channel():
  backbone = MobileNetV2(6, 0.25, blocks=((1, 8, 1),), last_channels=16)
  cost, = device_costs(Classifier(backbone, 3), (8, 8, 3), ["block0"])
  stem, depthwise, project = 16 * 27 * 8, 16 * 9 * 8, 16 * 8 * 8
  assert cost.flops == 2 * (stem + depthwise + project)


def test_measured_time_and_table():
  split, params, _ = tiny.network("conv0")
  cost = device_cost("conv0", split, tiny.SHAPE)
  timed = measured(cost, split, params["device"], tiny.batch()[0], repeats=2)
  assert timed.seconds > 0
  table = cost_table([cost, timed]).splitlines()
  assert len(table) == 4
  assert recorded(timed)["seconds"] == timed.seconds and "seconds" not in recorded(cost)
  assert device_line(recorded(cost)) == (
      "the device part, up to conv0: 40 parameters, 0.00 MFLOP and 0.59 kB sent an image")
  assert table[2] == "| conv0 | 6x6x4 | 40 | 0.00 | 0.58 | 0.59 | not measured |"


def test_an_unknown_cut_lists_the_names():
  with pytest.raises(ValueError, match="unknown cut 'conv7'; choose one of conv0"):
    device_costs(tiny.NETWORK, tiny.SHAPE, ["conv7"])
  with pytest.raises(ValueError, match="unknown cut"):
    split_network(tiny.NETWORK, "", tiny.SHAPE)
