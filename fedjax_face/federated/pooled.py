"""Training by one data holder: what centralised training and a silo alone have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws, part_identities
from fedjax_face.federated import client
from fedjax_face.federated.round import METRICS
from fedjax_face.federated.training import NOT_COVERED, Trained, require_classes
from fedjax_face.method import Method, Setting, refuse_noise, under
from fedjax_face.method.algorithm import NO_COMMUNICATION, Algorithm, HParams, always
from fedjax_face.options import OptionError
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release

Rows = Callable[[FaceDataset, Setting], np.ndarray]


class PooledState(NamedTuple):
  """Backbone and head, and the optimiser's state, which lives on between rounds."""

  params: dict[str, Any]
  optimizer: Any


def pooled(trained: Trained, steps: int, rows: Rows) -> Method:
  """Trains one backbone and one head on some rows of the training set; not private.

  A round is `steps` optimiser steps on batches of `local.batch_size` images drawn without
  replacement within the round (with, where the set is smaller). With several devices a batch is
  divided over them.

  Args:
    trained: backbone, head and local steps; these have neither a drift nor stages.
    steps: of a round.
    rows: (training set, setting) -> int [M], which images are trained on.

  Raises:
    ValueError: local steps that only a client can make.
  """
  if trained.local.alone is None:
    raise OptionError("local: who trains alone has neither a drift nor stages; expected "
                      "drift=none, stages=joint")
  return Method(lambda train, setting, hparams: _bound(
      trained, steps, rows(train, setting), train, setting, hparams))


def _bound(trained: Trained, steps: int, rows: np.ndarray, train: FaceDataset, setting: Setting,
           hparams: HParams) -> Algorithm:
  refuse_noise(setting, None, "", f"method={setting.method}")
  images, batch_size, devices = len(rows), trained.local.batch_size, setting.mesh.size
  if batch_size % devices:
    raise ValueError(f"method.local.batch_size={batch_size} must be a multiple of the {devices} "
                     "devices in use")
  labels, label_of_row = np.unique(train.label[rows], return_inverse=True)
  require_classes(len(labels), "what it trains on has no other")
  identity = part_identities(train.identities)[rows]
  with under("method.backbone"):
    model = trained.model(train, len(labels))
  assert trained.local.alone is not None
  training = trained.local.alone(model.loss)

  def init(key):
    backbone_key, head_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    backbone = model.init_backbone(backbone_key) if setting.start is None else setting.start
    params = {"backbone": backbone, "head": model.init_head(head_key)}
    return PooledState(params, training.init(params, hparams))

  def cohort(draws: Draws, round_number: int) -> Cohort:
    wanted = steps * batch_size
    if wanted > images:
      drawn = draws.generator(0, "with replacement", round_number).integers(images, size=wanted)
    else:
      chosen = draws.first(identity, wanted, "takes part", round_number)
      drawn = chosen[draws.order(identity[chosen], "order", round_number)]
    # A batch is divided, so that it holds the same images on any number of devices.
    divided = drawn.reshape(steps, devices, batch_size // devices).swapaxes(0, 1)
    return Cohort(
        examples=rows[divided].astype(np.int32),
        labels=label_of_row[divided].astype(np.int32),
        mask=np.ones(divided.shape, bool),
        num_classes=np.full(devices, len(labels), np.int32),
        client=np.arange(devices, dtype=np.int32))

  def step(state, data, cohort, hparams, keys):
    whole = lambda shards: jnp.moveaxis(shards, 0, 1).reshape(steps, batch_size)
    batches = client.ClientBatches(
        whole(cohort.examples), whole(cohort.labels), whole(cohort.mask), cohort.num_classes[0])
    params, optimizer, totals = training.run(
        state.params, state.optimizer, data.images, batches, hparams, keys.client)
    metrics = {"loss": totals.loss / totals.examples, "chance_loss": jnp.log(float(len(labels))),
               "accuracy": totals.correct / totals.examples,
               "cosine": totals.cosine / totals.examples, "examples": totals.examples}
    return PooledState(params, optimizer), metrics

  return Algorithm(
      name=setting.method,
      init=init,
      cohort=cohort,
      step=step,
      hparams=hparams,
      releases=(Release("model", "person", Adjacency.ADD_OR_REMOVE_ONE,
                        dp_accounting.NonPrivateDpEvent(), "everyone",
                        note="training without noise"),),
      not_covered=NOT_COVERED,
      embed=lambda state, images: model.embed(state.params["backbone"], images),
      channels={"model": always(NO_COMMUNICATION)},
      metrics={name: METRICS[name] for name in (
          "loss", "chance_loss", "accuracy", "cosine", "examples")},
      sampling=f"{steps * batch_size} of {images} images a round",
      population=len(np.unique(train.person[rows])),
  )
