"""Centralised training on all images at once: the upper bound, and the pre-training stage."""

from __future__ import annotations

from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.hparams import nested
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.data.cohorts import Cohort
from fedjax_face.draws import Draws, part_identities
from fedjax_face.federated import client
from fedjax_face.federated.algorithm import NO_COMMUNICATION, Algorithm, always
from fedjax_face.federated.round import METRICS
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release


class CentralizedState(NamedTuple):
  """Backbone and head, and the optimiser's state, which lives on between rounds."""

  params: dict[str, Any]
  optimizer: Any


def centralized(given: Ingredients) -> Algorithm:
  """Minibatch softmax training with one head over all identities; not private."""
  return pooled_training("centralized", given, np.arange(len(given.train)))


def pooled_training(name: str, given: Ingredients, rows: np.ndarray) -> Algorithm:
  """Trains one backbone and one head on some rows of the training set, as one data holder would.

  A round is `cohort.steps` optimiser steps on batches of `cohort.batch_size` images drawn without
  replacement within the round (with, where the set is smaller). With several devices a batch is
  divided over them.

  Args:
    name: of the algorithm.
    given: config, training set, devices, initial backbone.
    rows: int [M], which images of the training set.
  """
  config, images = given.config, len(rows)
  parts.refuse_noise(config, f"algorithm={name}")
  labels, label_of_row = np.unique(given.train.label[rows], return_inverse=True)
  identity = part_identities(given.train.identities)[rows]
  model = parts.model(config, given.train, len(labels))
  training = client.local_training(
      model.loss, client.optimizers(config.local.optimizer), client.JOINT)
  hparams = nested(config.hparams)
  steps, batch_size, devices = config.cohort.steps, config.cohort.batch_size, given.mesh.size
  if batch_size % devices:
    raise ValueError(
        f"cohort.batch_size={batch_size} must be a multiple of the {devices} devices in use")

  def init(key):
    backbone_key, head_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    backbone = model.init_backbone(backbone_key) if given.backbone is None else given.backbone
    params = {"backbone": backbone, "head": model.init_head(head_key)}
    return CentralizedState(params, training.init(params, hparams))

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
    return CentralizedState(params, optimizer), metrics

  return Algorithm(
      name=name,
      init=init,
      cohort=cohort,
      step=step,
      hparams=hparams,
      releases=(Release("model", "person", Adjacency.ADD_OR_REMOVE_ONE,
                        dp_accounting.NonPrivateDpEvent(), "everyone",
                        note="training without noise"),),
      not_covered=parts.NOT_COVERED,
      embed=lambda state, images: model.embed(state.params["backbone"], images),
      channels={"model": always(NO_COMMUNICATION)},
      metrics={name: METRICS[name] for name in (
          "loss", "chance_loss", "accuracy", "cosine", "examples")},
      sampling=f"{steps * batch_size} of {images} images a round",
      population=len(np.unique(given.train.person[rows])),
  )
