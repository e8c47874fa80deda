"""Methods: parts chosen and wired, and how one is bound to data.

A method is a value made of parts: a registered factory whose parameters are the sections of a
config. Bound to the facts of a training set and a setting it is an `Algorithm`: pure functions,
scalars nested like the call that made the method, and what it reveals.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import dp_accounting
from jax.sharding import Mesh

from fedjax_face import options
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.facts import facts
from fedjax_face.method.algorithm import Algorithm, HParams
from fedjax_face.options import OptionError, register
from fedjax_face.privacy import calibration
from fedjax_face.privacy.adjacency import Adjacency

Progress = Callable[[float, float], None]


class Watch(Protocol):
  """Puts the canaries of an audit into what is summed, and reads them in what is released."""

  def aggregator(self, watched: Any, who: Any) -> Any:
    """The aggregator of client updates, watched."""

  def noise(self, watched: Any, noise_multiplier: float, rate: float) -> Any:
    """The noise of sums of gradients, watched; `rate` is that of a unit in a step."""


class Budget(NamedTuple):
  """What a run may reveal.

  Attributes:
    epsilon: the total of a unit over the whole run, above 0; None: the method says its own noise,
      or adds none.
    delta: in (0, 1).
    unit: of which epsilon is meant; None: `Method.unit`.
    noise_seed: of noise that anybody can draw again; None outside tests.
  """

  epsilon: float | None = None
  delta: float = 1e-5
  unit: str | None = None
  noise_seed: int | None = None


class Setting(NamedTuple):
  """What a run gives a method beside its training set.

  Attributes:
    mesh: devices, axis `clients`.
    rounds: of the whole run.
    seed: of what is public: the split into silos, devices, the initial state.
    privacy: what may be revealed.
    start: parameters to start from, or None for a random start.
    start_is_public: whether these were trained on public data alone.
    public: a set declared public, or None.
    clients_per_chunk: clients that run side by side on a device.
    progress: called with (noise multiplier, epsilon) while noise is calibrated.
    watch: of an audit; None in any run that is not one.
    method: name of the method, for errors and records.
  """

  mesh: Mesh
  rounds: int
  seed: int = 0
  privacy: Budget = Budget()
  start: Any = None
  start_is_public: bool = False
  public: FaceDataset | None = None
  clients_per_chunk: int = 1
  progress: Progress | None = None
  watch: Watch | None = None
  method: str = ""


class Method(NamedTuple):
  """A training method whose parts are chosen.

  Attributes:
    bind: (facts of the training set, Setting, hparams) -> Algorithm; the hparams are nested like
      the call that made the method, without those that are still open.
    data: what it is fed with and judged by: "embeddings", "face_tasks" or "classes".
    unit: whose epsilon a budget means that says no unit.
  """

  bind: Callable[[Any, Setting, HParams], Algorithm]
  data: str = "embeddings"
  unit: str = "person"


register.kind(Method, keeps_options=True, homes=tuple(
    f"fedjax_face.methods.{module}" for module in (
        "centralized", "composed", "dp_activations", "dp_fedemb", "dp_hyperface", "fedavg",
        "fedaws", "fedgc", "fedpe", "fedproto", "local_only", "privacyface")))


def bind(method: Any, train: Any, setting: Setting) -> Algorithm:
  """A method on a training set, of which it is given the facts and no pixel.

  Args:
    method: a part, as a registered factory makes it.
    train: the private training set, or its facts: a FaceDataset, or a RegionSet for a network of
      several tasks.
    setting: of the run.

  Raises:
    ValueError: parts, data and setting that do not go together, in one line that names the option
      ("method.clients.per_round=0: ...").
  """
  privacy = setting.privacy._replace(unit=setting.privacy.unit or method.unit)
  known = facts(train)
  with under("method"):
    bound = method.bind(known, setting._replace(
        method=options.call(method)["name"], privacy=privacy), options.hparams(method))
  return dataclasses.replace(bound, method=method, facts=known)


@contextlib.contextmanager
def under(path: str) -> Iterator[None]:
  """Puts the path of a section before a refusal that names none, and before an overflow.

  Args:
    path: "method.backbone".

  Raises:
    OptionError, FileNotFoundError: in the place of what was raised inside.
  """
  try:
    yield
  except FileNotFoundError as error:
    if _PLACED.match(str(error)):
      raise
    raise FileNotFoundError(f"{path}: {error}") from error
  except OverflowError as error:
    raise OptionError(f"{path}: its arrays are larger than can be counted ({error})") from error
  except ValueError as error:
    if _PLACED.match(str(error)):
      raise
    raise OptionError(f"{path}: {' '.join(str(error).split())}") from error


_PLACED = re.compile(r"(method|privacy|compute|start|data|evaluation)[.:=]|give exactly one of ")


def require_unit(setting: Setting, *units: str) -> None:
  """Refuses a budget of a unit that the method does not account for.

  Args:
    setting: of the run.
    units: that the method protects.

  Raises:
    OptionError: the budget has an epsilon for another unit.
  """
  if setting.privacy.epsilon is not None and setting.privacy.unit not in units:
    raise OptionError(f"privacy.unit={setting.privacy.unit!r}: {setting.method} accounts for each "
                      f"{' or '.join(units)}")


def noise_multiplier(said: float | None, setting: Setting, adjacency: Adjacency,
                     run_event: Callable[[float], dp_accounting.DpEvent], path: str,
                     largest: float = 10_000.0) -> float:
  """A part's noise multiplier, or the smallest that the budget asks for.

  Args:
    said: what the part says; None: to be calibrated. Exactly one of it and the budget's epsilon is
      given.
    setting: of the run.
    adjacency: under which the budget is meant.
    run_event: noise multiplier -> event of the whole run.
    path: of the option, for errors: "method.aggregate.noise_multiplier".
    largest: where the search gives up.

  Raises:
    OptionError: both or neither are given, a multiplier out of range.
    ValueError: a target out of reach.
  """
  epsilon = setting.privacy.epsilon
  calibration.require_exactly_one({"privacy.epsilon": epsilon, path: said})
  if epsilon is None:
    assert said is not None
    if not 0 <= said < math.inf:
      raise OptionError(f"{path}={said}: expected a number, at least 0")
    return said
  return calibration.calibrate_noise(
      run_event, epsilon, setting.privacy.delta, adjacency, progress=setting.progress,
      largest_noise=largest, name="privacy.epsilon")


def refuse_noise(setting: Setting, said: float | None, path: str, what: str) -> None:
  """Raises OptionError where privacy or noise is asked for and `what` adds none.

  Args:
    setting: of the run.
    said: a noise multiplier beside it, or None.
    path: of that option, for errors.
    what: the part that adds no noise: "method.aggregate=mean".
  """
  for name, value in (("privacy.epsilon", setting.privacy.epsilon), (path, said)):
    if value is not None:
      raise OptionError(f"{name}={value} cannot be had with {what}, which adds no noise")
