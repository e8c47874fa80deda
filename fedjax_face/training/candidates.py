"""Settings that a rehearsal tries: a few levels of each value, dealt as a Latin hypercube."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.models import registry as models
from fedjax_face.training.config import flatten

CLIENT_RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the config's
EPOCHS = (1, 2, 4)
MARGINS = (0.0, 0.1, 0.2, 0.35)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)    # of the clients' update norms
STEPS = (0.3, 0.6, 1.2, 2.4, 4.0)          # of the server, in units of `step_unit`

_FIXED_CLIP = ("gaussian", "correlated", "clipped")


class Candidate(NamedTuple):
  """A setting, before the clip norm and the server's learning rate are numbers.

  Attributes:
    values: dotted config key -> value.
    quantile: of the norms of client updates under `values`, which becomes the clip norm; None
      where `values` has it, or nothing is clipped.
    step: of the server, in units of `step_unit`; None where `values` has the learning rate.
  """

  values: dict[str, Any]
  quantile: float | None = None
  step: float | None = None


def significant(value: float, digits: int = 3) -> float:
  """The value in so many significant digits."""
  return float(f"{value:.{digits}g}")


def own(config: Any) -> Candidate:
  """The config's own values of everything that a rehearsal chooses."""
  flat = flatten(config)
  listed = with_passes(config, {name: flat[name] for name in _levels(config)})
  return Candidate(listed | {name: flat[name] for name in _derived(config)})


def draw(config: Any, count: int, rng: np.random.Generator) -> list[Candidate]:
  """The config's own setting and `count` - 1 others; each level of a value comes up equally often.

  Only values that the config has, and that matter to its head and aggregator, differ.

  Args:
    config: of the run.
    count: at least 1.
    rng: deals the levels.
  """
  derived = _derived(config)
  levels: dict[str, Sequence[Any]] = {**_levels(config)}
  if "hparams.clip_norm" in derived:
    levels["quantile"] = QUANTILES
  if "hparams.server_learning_rate" in derived:
    levels["step"] = STEPS
  dealt = {name: rng.permutation(np.resize(rng.permutation(len(values)), count - 1))
           for name, values in levels.items()}
  others = []
  for number in range(count - 1):
    values = {name: levels[name][int(dealt[name][number])] for name in levels}
    quantile, step = values.pop("quantile", None), values.pop("step", None)
    others.append(Candidate(with_passes(config, values), quantile, step))
  return [own(config), *others]


def with_passes(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  """The values, and the limit of a client's examples that leaves each epoch as many as before."""
  values, most = dict(values), config.cohort.get("max_examples", 0)
  if "cohort.epochs" in values and most:
    values["cohort.max_examples"] = math.ceil(most * values["cohort.epochs"] / config.cohort.epochs)
  return values


def resolved(candidate: Candidate, norms: np.ndarray | None, unit: float,
             hparams: Mapping[str, float]) -> dict[str, Any]:
  """Every value as a number, dotted config key -> value.

  Args:
    candidate: whose quantile and step are made numbers.
    norms: [n] of client updates under `candidate.values`; None where no quantile asks for them.
    unit: `step_unit` at clip norm 1; at clip norm C it is that over C, and at most 1.
    hparams: of the run: the server's momentum, and the clip norm where the setting chooses none.
  """
  values = dict(candidate.values)
  if norms is not None:
    values["hparams.clip_norm"] = significant(float(np.quantile(norms, candidate.quantile or 0.5)))
  if candidate.step is not None:
    largest = min(1.0, unit / values.get("hparams.clip_norm", hparams["clip_norm"]))
    values["hparams.server_learning_rate"] = significant(
        candidate.step * largest * (1 - hparams.get("server_momentum", 0.0)))
  return values


def step_unit(weight: float, noise_on_mean: float, rounds: int) -> float:
  """A server step, learning rate / (1 - momentum), that the noise of a whole run lets be, at C = 1.

  Step 1 moves the model by the mean update in the long run. Noise of standard deviation s on the
  mean, added up over T rounds at step e, has standard deviation e s sqrt(T); at this step that is
  the size of a weight.

  Args:
    weight: root mean square of the weights at the start.
    noise_on_mean: z / K, over the clip norm; 0 without noise.
    rounds: T.
  """
  return weight / (noise_on_mean * math.sqrt(rounds)) if noise_on_mean else math.inf


def _levels(config: Any) -> dict[str, tuple[Any, ...]]:
  """Values that are chosen from a list: dotted config key -> levels, the config's own included."""
  flat, found = flatten(config), {}
  if rate := flat.get("hparams.client_learning_rate"):
    found["hparams.client_learning_rate"] = tuple(significant(rate * f) for f in CLIENT_RATES)
  if epochs := flat.get("cohort.epochs"):
    found["cohort.epochs"] = tuple(sorted({epochs, *EPOCHS}))
  margin = flat.get("hparams.margin")
  if margin is not None and "margin" in models.head_scalars(config.model.head):
    found["hparams.margin"] = tuple(sorted({margin, *MARGINS}))
  return found


def _derived(config: Any) -> list[str]:
  """Values that follow from what is seen in the rehearsal."""
  flat, names = flatten(config), []
  if config.privacy.aggregator in _FIXED_CLIP and "hparams.clip_norm" in flat:
    names.append("hparams.clip_norm")
  if flat.get("hparams.server_learning_rate"):
    names.append("hparams.server_learning_rate")
  return names
