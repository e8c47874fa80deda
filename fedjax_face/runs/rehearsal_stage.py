"""Plays settings on public people: one compiled program for all of them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fedjax_face import method as methods
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.pairs import Pairs
from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Algorithm, State, at_paths, flattened, with_values
from fedjax_face.models.registry import count_parameters
from fedjax_face.runs import candidates, loop
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.candidates import LOCAL_EPOCHS, value_of, with_passes
from fedjax_face.runs.evaluator import Evaluator
from fedjax_face.runs.experiment import is_resident
from fedjax_face.runs.rehearsal_plan import REHEARSAL, Parts, of_one_client
from fedjax_face.runs.streams import ROOT_BYTES, expand, public_root

NORM_CLIENTS = 16  # whose update norms give the quantiles of a setting

_NEED_PAIRS = {"lfw_view2", "insightface", "tar_at_far"}
_PAIRS = (6000, 2000, 600, 200, 60, 20)

CohortFn = Callable[[Draws, int], Cohort]


class Player:
  """An algorithm whose hyperparameters and local epochs change without compiling again.

  Attributes:
    algorithm: with the method's own epochs.
    start: state before the first round.
  """

  def __init__(self, asked: Asked, parts: Parts, mesh: Mesh, backbone: Any, epochs: Iterable[Any]):
    self._images, self._mesh = parts.clients.images, mesh
    self._seed, self._resident = asked.record["seed"], asked.compute.resident
    setting, method = asked.setting(mesh, parts.pretraining, backbone), asked.method
    self._epochs = value_of(method, LOCAL_EPOCHS)
    made: dict[Any, Algorithm] = {self._epochs: methods.bind(method, parts.clients, setting)}
    for number in {*epochs} - {self._epochs}:
      other = candidates.with_values(method, with_passes(method, {LOCAL_EPOCHS: number}))
      made[number] = methods.bind(other, parts.clients, setting)
    self.algorithm = made[self._epochs]
    self._cohorts = _of_one_shape({number: a.cohort for number, a in made.items()})
    self._dispatch = loop.compile_rounds(self.algorithm, mesh)
    self.start = loop.initial_state(self.algorithm, self._seed, mesh, self._images)

  def play(self, values: Mapping[str, Any], state: State, start: int, stop: int, stream: int,
           rounds_per_dispatch: int) -> tuple[State, dict[str, np.ndarray]]:
    """State after rounds `start .. stop`, and the metrics of the last dispatch.

    The state given stays as it is.

    Args:
      values: path -> value; those that enter the compiled step and the epochs count.
      state: before round `start`.
      start, stop: rounds.
      stream: of noise and data order; another one is another repetition.
      rounds_per_dispatch: the same in every call, which otherwise compiles anew.

    Raises:
      loop.NonFiniteState: the setting diverged.
    """
    read = flattened(self.algorithm.hparams)  # one client's mean has no clip norm, for one
    traced = {name: value for path, value in values.items()
              if (name := path.removeprefix("method.")) in read}
    cohort = self._cohorts[values.get(LOCAL_EPOCHS, self._epochs)]
    root = expand(public_root(self._seed), "rehearsal", stream, ROOT_BYTES)
    metrics: dict[str, np.ndarray] = {}
    for progress in loop.train(
        dataclasses.replace(self.algorithm, cohort=cohort), self._images,
        rounds=stop, seed=self._seed, noise_root=root, cohort_root=root,
        state=jax.tree.map(jnp.copy, state), start=start, rounds_per_dispatch=rounds_per_dispatch,
        mesh=self._mesh, resident=self.algorithm.needs_all_images or is_resident(
            self._resident, self._images),
        hparams=with_values(self.algorithm.hparams, at_paths(traced)), dispatch=self._dispatch):
      state, metrics = progress.state, progress.metrics
    return state, metrics


class Stage:
  """Settings, played and judged.

  Attributes:
    start: state before the first round.
    weight: root mean square of the parameters at the start.
    evaluator: on the people who judge.
  """

  def __init__(self, asked: Asked, parts: Parts, mesh: Mesh, backbone: Any, epochs: Iterable[Any]):
    epochs = set(epochs)
    self._rounds_per_dispatch = asked.compute.rounds_per_dispatch
    self._player = Player(asked, parts, mesh, backbone, epochs)
    one_device = Mesh(mesh.devices.reshape(-1)[:1], mesh.axis_names)
    self._one_client = Player(of_one_client(asked), parts, one_device, backbone, epochs)
    self._norms: dict[tuple[Any, ...], np.ndarray] = {}
    self.start = self._player.start
    size = count_parameters(self.start.params)
    self.weight = float(optax.tree.norm(self.start.params)) / math.sqrt(size)
    judging, pairs = _judging(asked, parts.judges)
    self.evaluator = Evaluator(
        self._player.algorithm, judging, parts.judges, pairs, asked.record["seed"])
    self._timed: list[tuple[int, float]] = []

  @property
  def seconds_per_round(self) -> float:
    """Of the rounds so far."""
    return sum(s for _, s in self._timed) / max(sum(rounds for rounds, _ in self._timed), 1)

  def compile(self) -> None:
    """Plays one round of each program, so that no candidate pays for compilation."""
    for player, size in ((self._player, self._rounds_per_dispatch),
                         (self._one_client, NORM_CLIENTS)):
      player.play({}, player.start, 0, 1, 0, size)

  def play(self, values: Mapping[str, Any], state: State, start: int, stop: int, stream: int
           ) -> State:
    """`Player.play` with the clients of the rehearsal."""
    began = time.monotonic()
    state, _ = self._player.play(
        values, state, start, stop, stream, self._rounds_per_dispatch)
    self._timed.append((stop - start, time.monotonic() - began))
    return state

  def norms(self, values: Mapping[str, Any]) -> np.ndarray:
    """Norms [n] of the unclipped updates of `NORM_CLIENTS` clients that begin at the start.

    The same clients for all settings. An update that is zero or not finite is left out.
    """
    key = tuple(sorted(values.items()))
    if key not in self._norms:
      still = {path: v for path, v in values.items() if not path.startswith("method.server.")}
      _, metrics = self._one_client.play(
          still, self._one_client.start, 0, NORM_CLIENTS, 0, NORM_CLIENTS)
      norms = metrics["update_norm"]
      self._norms[key] = norms[np.isfinite(norms) & (norms > 0)]
    return self._norms[key]


def _of_one_shape(cohorts: Mapping[int, CohortFn]) -> dict[int, CohortFn]:
  """The cohorts of several numbers of epochs, padded to the steps of the longest.

  A client stops after its last real batch, so padding is not computed.
  """
  steps = max(cohort(Draws.of(0), 0).mask.shape[1] for cohort in cohorts.values())

  def padded(cohort: CohortFn) -> CohortFn:
    def longest(draws: Draws, round_number: int) -> Cohort:
      drawn = cohort(draws, round_number)
      pad = lambda array: np.pad(array, ((0, 0), (0, steps - array.shape[1]), (0, 0)))
      return drawn._replace(
          examples=pad(drawn.examples), labels=pad(drawn.labels), mask=pad(drawn.mask))
    return longest

  return {number: padded(cohort) for number, cohort in cohorts.items()}


def _judging(asked: Asked, judges: FaceDataset) -> tuple[dict[str, Any], Pairs | None]:
  """How the run is judged, and pairs of judges where its protocols need some.

  Where the judges are too few for pairs, such protocols are left out.
  """
  from fedjax_face.evaluation.random_pairs import pairs_from_labels
  options = asked.evaluation.section()
  if not _NEED_PAIRS & set(options["protocols"]):
    return options, None
  for number in _PAIRS:
    try:
      rng = np.random.default_rng([asked.record["seed"], REHEARSAL])
      return options, pairs_from_labels(judges.label, number, rng)
    except ValueError:
      continue
  kept = [name for name in options["protocols"] if name not in _NEED_PAIRS]
  return options | {"protocols": kept or ["recall_all_pairs"]}, None
