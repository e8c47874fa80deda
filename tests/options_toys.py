"""Kinds and factories as the rooms will have them, small: a method of five parts."""
# ruff: noqa: B006, B008

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from fedjax_face.options import OptionError, Registry, Traced, above, at_least, made, within

register = Registry()
made_so_far: list[str] = []  # names of the factories whose bodies ran


class Head(NamedTuple):
  """Two closures: neither comparable, nor picklable, nor weakly referable."""

  logits: Callable[[float], float]
  geometry: Callable[[float], float]


@dataclasses.dataclass(frozen=True)
class Aggregate:
  clip: Callable[[float], float]
  adds_noise: bool


class Backbone:
  """As flax modules are: any instance of a subclass will do."""


class Method(NamedTuple):
  head: Head
  parts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Drift:
  weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Local:
  drift: Drift
  rate: Any


@dataclasses.dataclass(frozen=True)
class Judge:
  fars: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Budget:
  epsilon: float
  delta: float


class Schedule(Protocol):
  """A kind of plain functions."""

  def __call__(self, step: int) -> float: ...

for kind in (Head, Aggregate, Method, Drift, Local, Schedule, Judge, Budget):
  register.kind(kind, homes=(__name__,))
register.kind(Backbone)


@register.head
def linear() -> Head:
  """Logits without a margin."""
  return Head(lambda cosine: cosine, lambda cosine: cosine)


@register.head
def cosface(*, margin: Annotated[Traced, within("[0, 1)")] = 0.35,
            scale: Annotated[Traced, above(0)] = 16) -> Head:
  """Large-margin cosine head.

  Args:
    margin: taken from the true class's cosine. Not an angle.
    scale: of all
      cosines.
  """
  made_so_far.append("cosface")
  return Head(lambda cosine: scale * (cosine - margin), lambda cosine: scale * cosine)


@register.head
def arcface(*, margin: Annotated[Traced, within("[0, pi/2)")] = 0.5,
            scale: Annotated[Traced, above(0)] = 16.0) -> Head:
  """Additive angular margin head."""
  return Head(lambda cosine: scale * (cosine - margin), lambda cosine: scale * cosine)


@register.aggregate
def gaussian(*, clip_norm: Annotated[Traced, within("(0, inf]")] = 1.0,
             noise_multiplier: Annotated[Traced, at_least(0)] | None = None) -> Aggregate:
  """Clipped sum with Gaussian noise."""
  return Aggregate(lambda norm: min(norm, clip_norm), True)


@register.aggregate
def mean() -> Aggregate:
  """Weighted mean, not private."""
  return Aggregate(lambda norm: norm, False)


@register.drift
def none() -> Drift:
  """No correction of client drift."""
  return Drift()


@register.drift
def fedprox(*, weight: Annotated[Traced, at_least(0)] = 0.01) -> Drift:
  """Proximal term."""
  return Drift(weight)


@register.schedule
def cosine_decay(*, peak: Annotated[Traced, above(0)] = 0.1,
                 steps: Annotated[int, at_least(1)] = 100) -> Schedule:
  """Falls from peak to 0: a plain function."""
  return lambda step: peak * (1 - step / steps)


def _identity(step: int) -> float:
  return float(step)


@register.schedule
def identity(*, label: str = "") -> Schedule:
  """The same function at every call."""
  return _identity


@register.local
def local_steps(*, learning_rate: Annotated[Traced, above(0)] | Schedule = 0.02,
                epochs: Annotated[int, at_least(1)] = 1, head_steps: int = 0,
                stages: Literal["joint", "head_first"] = "joint", flip: bool = False,
                layers: tuple[str, ...] = (), size: tuple[int, int] = (8, 8),
                drift: Drift = none()) -> Local:
  """What a client does."""
  if head_steps > epochs:
    raise OptionError(f"head_steps={head_steps}: expected at most epochs={epochs}")
  if "all" in layers:
    raise ValueError("layers cannot all be frozen")
  return Local(drift, learning_rate)


@register.backbone
def lenet(*, embedding_dim: Annotated[int, at_least(1)] = 128,
          widths: Mapping[str, float] = {}, notes: Mapping[str, Any] = {}) -> Backbone:
  """A small backbone."""
  return Backbone()


@register.judge
def recall(*, fars: tuple[Annotated[float, within("(0, 1]")], ...] = (0.1,)) -> Judge:
  """Recall at a false accept rate."""
  return Judge(fars)


@register.judge
def identification(*, ranks: int = 1) -> Judge:
  """Rank-k identification."""
  return Judge((float(ranks),))


@register.budget
def budget(epsilon: Annotated[float, above(0)],
           delta: Annotated[float, within("(0, 1)")] = 1e-5) -> Budget:
  """A target epsilon."""
  return Budget(epsilon, delta)


@register.method
def dp_fedemb(*, backbone: Backbone = lenet(), head: Head = cosface(), local: Local = local_steps(),
              aggregate: Aggregate = gaussian(), start_head: str = "per_client",
              warm: Head | None = None) -> Method:
  """DP-FedEmb, in small."""
  made_so_far.append("dp_fedemb")
  return Method(head, {"backbone": backbone, "local": local, "aggregate": aggregate, "warm": warm})


@register.method
def fedavg(*, backbone: Backbone = lenet(), head: Head = linear(),
           aggregate: Aggregate = mean()) -> Method:
  """FedAvg, in small."""
  return Method(head, {"backbone": backbone, "aggregate": aggregate})


@register.method
def centralized(*, local: Local = local_steps(epochs=5, drift=fedprox())) -> Method:
  """No federation; its default part is not a bare call."""
  return Method(made(linear()), {"local": local})


def evaluation(*, protocols: Mapping[str, Judge] = {"recall": recall()},
               every: Annotated[int, at_least(0)] = 50) -> tuple:
  """When and how the model is judged; not a registered factory."""
  return (protocols, every)


ROOT = {"method": Method, "privacy": Budget | None, "evaluation": evaluation,
        "rounds": Annotated[int, at_least(1)], "seed": int}


def fit(method: Method, *, rounds: Annotated[int, at_least(1)], seed: int = 0,
        privacy: Budget | None = None) -> None:
  """A root that is a function."""
