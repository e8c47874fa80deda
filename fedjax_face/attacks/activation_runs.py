"""Attacks on what an edge server receives, over cuts and epsilons: each is trained and attacked."""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face import options
from fedjax_face.attacks import activation_suite, decoder, inversion
from fedjax_face.attacks.activation_report import Played, report
from fedjax_face.attacks.activation_suite import Findings
from fedjax_face.attacks.attacked import Attacked, keywords, require_arguments
from fedjax_face.data.sources import Sources
from fedjax_face.method.algorithm import Algorithm, Data
from fedjax_face.models.embedding import unit_embeddings
from fedjax_face.options import above, at_least
from fedjax_face.runs import checkpoint, fit
from fedjax_face.runs.asked import Asked, changed
from fedjax_face.runs.evaluator import on_one_device
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.records import read_json
from fedjax_face.runs.streams import BEFORE_ROUNDS, public_root, step_keys

NotNegative = Annotated[int, at_least(0)]
_NOISE = "method.activations.noise_multiplier"


class Suite(NamedTuple):
  """What is trained, and how it is attacked.

  Attributes:
    config: arguments of `fit` of a run of `dp_activations` with one device, `frozen_cached`, that
      starts from public pre-training, whose backbone is the attacker's face recogniser.
    cuts: name -> what is changed in these arguments: path in the call -> value.
    decoder: keyword arguments of `decoder.train_decoder`.
    inversion: keyword arguments of `inversion.inversion`, and `pictures`, 0 for none.
    epsilons: each of one image over the whole run.
    without_noise: whether a run without any noise is attacked too.
    trials: of telling two activations apart.
    shadows: servers for likelihood ratios; 0 for none.
    shadow_learning_rate: of these.
    ridge: of the attack on gender.
    label_noise: noise multipliers of the gradients that labels are guessed from.
    people_in_grid: rows of a figure of reconstructions.
    seed: of the runs and of the attacks' own draws.
  """

  config: Mapping[str, Any]
  cuts: Mapping[str, Mapping[str, Any]]
  decoder: Mapping[str, Any]
  inversion: Mapping[str, Any]
  epsilons: tuple[Annotated[float, above(0)], ...] = (1.0, 4.0, 8.0, 16.0, 50.0)
  without_noise: bool = True
  trials: Annotated[int, at_least(1)] = 20_000
  shadows: NotNegative = 0
  shadow_learning_rate: Annotated[float, above(0)] = 1e-3
  ridge: Annotated[float, at_least(0)] = 0.1
  label_noise: tuple[Annotated[float, at_least(0)], ...] = (0.0, 1.0, 4.0)
  people_in_grid: Annotated[int, at_least(1)] = 4
  seed: NotNegative = 0

  def play(self, workdir: pathlib.Path) -> Attacked:
    """Trains and attacks every setting; what the folder holds is not trained again.

    Raises:
      ValueError: an option out of range, or arguments that `fit` or the attacks refuse.
    """
    self.check()
    asked = self.asked()
    first = next(iter(asked.values()))
    sources = first.sources()
    played: dict[str, list[Played]] = {}
    for (cut, epsilon), own in asked.items():
      folder = workdir / f"{cut}_{epsilon:g}"
      say = lambda line, name=folder.name: print(f"{name}: {line}", file=sys.stderr, flush=True)
      say("training")
      made = fit.carried_out(own, folder, say, sources=sources,
                             public_stages=workdir / "public_stages")
      say("attacks")
      made = own.experiment(folder, lambda line: None, sources=sources) if made is None else made
      played.setdefault(cut, []).append(Played(
          epsilon, read_json(folder / "summary.json")["metrics"], self._attacked(made, folder)))
    title = (f"{sources.train.name}: {sources.train.num_persons} people, {len(sources.train)} "
             f"pictures, each sent once; device part frozen, replace-one")
    return report({"attack": "activations", **self._asdict(), "config": first.record}, played,
                  workdir, delta=first.privacy.delta, title=title,
                  people_in_grid=self.people_in_grid)

  def check(self) -> None:
    """Finds mistakes in what is said of the attacks.

    Raises:
      ValueError: naming the option and what is expected.
    """
    if not self.cuts or not (self.epsilons or self.without_noise):
      raise ValueError("cuts and epsilons: nothing to attack")
    require_arguments("decoder", self.decoder, decoder.train_decoder,
                      keywords(decoder.train_decoder))
    require_arguments("inversion", self.inversion, inversion.inversion,
                      keywords(inversion.inversion) | {"pictures"})

  def asked(self) -> dict[tuple[str, float], Asked]:
    """(cut, epsilon) -> the arguments of its run; without noise epsilon is infinite.

    Raises:
      ValueError: arguments that are refused, or of a run that the suite does not attack.
    """
    found = {}
    for cut, values in self.cuts.items():
      for epsilon in (*self.epsilons, *([math.inf] if self.without_noise else [])):
        noise = ({"privacy.epsilon": epsilon, _NOISE: None} if epsilon < math.inf
                 else {"privacy.epsilon": None, _NOISE: 0.0})
        try:
          found[cut, epsilon] = own = Asked.of_config(
              changed(self.config, {**values, **noise, "seed": self.seed}))
          _check_run(own)
        except ValueError as error:
          raise ValueError(f"cut {cut}: {error}") from error
    if len({repr(own.record["data"]) for own in found.values()}) > 1:
      raise ValueError("cuts: all of them need the same data")
    return found

  def _attacked(self, made: Experiment, folder: pathlib.Path) -> Findings:
    """Attacks the finished run in a folder."""
    algorithm, sources = made.algorithm, made.sources
    found = checkpoint.restore(
        folder / "checkpoints", jax.eval_shape(algorithm.init, jax.random.key(0)), print)
    assert found is not None
    state = on_one_device(jax.tree.map(jnp.asarray, found.state))
    received, order = _transcript(algorithm, sources, self.seed)
    backbone = algorithm.parts.parts.cut.backbone
    embed = jax.jit(lambda images: unit_embeddings(backbone, made.backbone, images))
    return activation_suite.attack(
        algorithm.parts, state, algorithm.hparams["activations"]["noise_multiplier"], received,
        order, sources, embed, self._asdict(), jax.random.key(self.seed))


def _check_run(own: Asked) -> None:
  """Refuses, before anything is trained, what the suite cannot attack."""
  if options.made(own.method).data != "classes":
    raise ValueError(f"method={own.record['method']['name']}: expected dp_activations")
  activation_suite.require_attacked(
      _mode(own), options.argument(options.argument(own.method, "clients"), "number"))
  if own.start is None:
    raise ValueError("start=None: the attacker recognises faces with the public start; expected "
                     "pretrain")


def _mode(own: Asked) -> str:
  return options.made(options.argument(own.method, "device")).mode


def _transcript(algorithm: Algorithm, sources: Sources, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """What the server receives, from the run's own code, and the picture that each row is of.

  The noise is another draw: that of the run is erased at its end.
  """
  assert algorithm.prepare is not None
  scalars = jax.tree.map(jnp.float32, algorithm.hparams)
  keys = step_keys(seed, public_root(seed), BEFORE_ROUNDS)
  sent = jax.jit(algorithm.prepare)(Data(sources.train.images), scalars, keys)
  return np.asarray(sent.images), np.asarray(sent.targets["number"])
