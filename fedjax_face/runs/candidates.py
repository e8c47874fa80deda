"""Settings that a rehearsal tries: a few levels of each value, dealt as a Latin hypercube.

Values go by their paths in the call of the run: "method.local.epochs".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face import options

CLIENT_RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the method's
EPOCHS = (1, 2, 4)
MARGINS = (0.0, 0.1, 0.2, 0.35)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)    # of the clients' update norms
STEPS = (0.3, 0.6, 1.2, 2.4, 4.0)          # of the server, in units of `step_unit`

CLIENT_RATE, LOCAL_EPOCHS = "method.local.learning_rate", "method.local.epochs"
MAX_EXAMPLES, MARGIN = "method.clients.max_examples", "method.head.margin"
CLIP_NORM, SERVER_RATE = "method.aggregate.clip_norm", "method.server.learning_rate"
_SERVER_MOMENTUM = "method.server.momentum"
_FIXED_CLIP = ("gaussian", "correlated", "clipped")


class Candidate(NamedTuple):
  """A setting, before the clip norm and the server's learning rate are numbers.

  Attributes:
    values: path -> value.
    quantile: of the norms of client updates under `values`, which becomes the clip norm; None
      where `values` has it, or nothing is clipped.
    step: of the server, in units of `step_unit`; None where `values` has the learning rate.
  """

  values: dict[str, Any]
  quantile: float | None = None
  step: float | None = None


def value_of(method: Any, path: str) -> Any:
  """The option of a method, or of a part of it; None where there is no such option."""
  found = method
  for name in path.split(".")[1:]:
    arguments = options.record(found).arguments if isinstance(found, options.Part) else {}
    found = arguments.get(name)
  return found


def with_values(method: Any, values: Mapping[str, Any]) -> Any:
  """The method with other options; path -> value.

  Raises:
    OptionError: a path or a value that its parts do not take.
  """
  for path, value in values.items():
    method = _with_value(method, path.split(".")[1:], value)
  return method


def _with_value(part: Any, path: Sequence[str], value: Any) -> Any:
  name, *below = path
  if below:
    value = _with_value(options.argument(part, name), below, value)
  return options.replace(part, **{name: value})


def significant(value: float, digits: int = 3) -> float:
  """The value in so many significant digits."""
  return float(f"{value:.{digits}g}")


def own(method: Any) -> Candidate:
  """The method's own values of everything that a rehearsal chooses."""
  listed = with_passes(method, {path: value_of(method, path) for path in _levels(method)})
  return Candidate(listed | {path: value_of(method, path) for path in _derived(method)})


def draw(method: Any, count: int, rng: np.random.Generator) -> list[Candidate]:
  """The method's own setting and `count` - 1 others; each level of a value comes up equally often.

  Only values that its parts have, and that matter to them, differ.

  Args:
    method: of the run.
    count: at least 1.
    rng: deals the levels.
  """
  derived = _derived(method)
  levels: dict[str, Sequence[Any]] = {**_levels(method)}
  if CLIP_NORM in derived:
    levels["quantile"] = QUANTILES
  if SERVER_RATE in derived:
    levels["step"] = STEPS
  dealt = {name: rng.permutation(np.resize(rng.permutation(len(values)), count - 1))
           for name, values in levels.items()}
  others = []
  for number in range(count - 1):
    values = {name: levels[name][int(dealt[name][number])] for name in levels}
    quantile, step = values.pop("quantile", None), values.pop("step", None)
    others.append(Candidate(with_passes(method, values), quantile, step))
  return [own(method), *others]


def with_passes(method: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  """The values, and the limit of a client's examples that leaves each epoch as many as before."""
  values, most = dict(values), value_of(method, MAX_EXAMPLES)
  if LOCAL_EPOCHS in values and most:
    before = value_of(method, LOCAL_EPOCHS)
    values[MAX_EXAMPLES] = math.ceil(most * values[LOCAL_EPOCHS] / before)
  return values


def resolved(candidate: Candidate, norms: np.ndarray | None, unit: float, method: Any
             ) -> dict[str, Any]:
  """Every value as a number, path -> value.

  Args:
    candidate: whose quantile and step are made numbers.
    norms: [n] of client updates under `candidate.values`; None where no quantile asks for them.
    unit: `step_unit` at clip norm 1; at clip norm C it is that over C, and at most 1.
    method: of the run: the server's momentum, and the clip norm where the setting chooses none.
  """
  values = dict(candidate.values)
  if norms is not None:
    values[CLIP_NORM] = significant(float(np.quantile(norms, candidate.quantile or 0.5)))
  if candidate.step is not None:
    clip_norm = values.get(CLIP_NORM, value_of(method, CLIP_NORM)) or 1.0
    largest = min(1.0, unit / clip_norm)
    values[SERVER_RATE] = significant(
        candidate.step * largest * (1 - (value_of(method, _SERVER_MOMENTUM) or 0.0)))
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


def _levels(method: Any) -> dict[str, tuple[Any, ...]]:
  """Values that are chosen from a list: path -> levels, the method's own included."""
  found: dict[str, tuple[Any, ...]] = {}
  if rate := value_of(method, CLIENT_RATE):
    found[CLIENT_RATE] = tuple(significant(rate * f) for f in CLIENT_RATES)
  if epochs := value_of(method, LOCAL_EPOCHS):
    found[LOCAL_EPOCHS] = tuple(sorted({epochs, *EPOCHS}))
  margin = value_of(method, MARGIN)
  if margin is not None:
    found[MARGIN] = tuple(sorted({margin, *MARGINS}))
  return found


def _derived(method: Any) -> list[str]:
  """Values that follow from what is seen in the rehearsal.

  The server's rate where it is a factor on the mean update, as of `momentum`.
  """
  found = []
  if _name(value_of(method, "method.aggregate")) in _FIXED_CLIP:
    found.append(CLIP_NORM)
  if value_of(method, SERVER_RATE) and value_of(method, _SERVER_MOMENTUM) is not None:
    found.append(SERVER_RATE)
  return found


def _name(part: Any) -> str:
  return options.record(part).factory.name if isinstance(part, options.Part) else ""
