"""What a run is told beside its method and its data: budget, evaluation, how it is computed."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from fedjax_face.method import Budget
from fedjax_face.options import above, at_least, register, within

Count = Annotated[int, at_least(1)]
NotNegative = Annotated[int, at_least(0)]
Rate = Annotated[float, within("(0, 1]")]


class Evaluation(NamedTuple):
  """How a model is judged, and how often; see `protocols`."""

  protocols: tuple[str, ...]
  fars: tuple[float, ...]
  every: int
  batch_size: int
  bootstrap: int
  headline: tuple[str, ...]
  flip: str | bool


class Compute(NamedTuple):
  """How a run is carried out; see `compute`."""

  rounds_per_dispatch: int
  clients_per_chunk: int
  checkpoint_every: int
  resident: str


register.kind(Budget)
register.kind(Evaluation)
register.kind(Compute)


@register.budget
def budget(epsilon: Annotated[float, above(0)] | None = None,
           delta: Annotated[float, within("(0, 1)")] = 1e-5,
           unit: Literal["person", "image"] = "person") -> Budget:
  """What a run may reveal of one unit.

  Args:
    epsilon: the total over the whole run, to which noise is calibrated; None: the method says its
      own noise, or adds none.
    delta: below one over the number of units.
    unit: of which epsilon is meant; the adjacency follows from how the method samples.
  """
  return Budget(epsilon, delta, unit)


@register.evaluation
def protocols(names: tuple[str, ...] = ("recall_all_pairs",), *,
              fars: tuple[Rate, ...] = (1e-1, 1e-2, 1e-3), every: NotNegative = 0,
              batch_size: Count = 256, bootstrap: NotNegative = 1000,
              headline: tuple[str, ...] = (),
              flip: Literal["none", "sum", "concat"] = "none") -> Evaluation:
  """How embeddings are judged on people who do not train.

  Args:
    names: of `evaluation.protocols`: recall_all_pairs, identification, tar_at_far, ...
    fars: false accept rates.
    every: so many rounds, beside the first and the last; 0: these alone.
    batch_size: images embedded at a time.
    bootstrap: resamples of people for the intervals; 0 for none.
    headline: metrics that tables name first.
    flip: of each image and its mirror image `sum` adds the embeddings, `concat` joins them.
  """
  from fedjax_face.evaluation.protocols import PROTOCOLS
  for what, given in (("names", names), ("fars", fars)):
    if not given:
      raise ValueError(f"{what}=(): expected at least one")
  for name in names:
    if name not in PROTOCOLS:
      raise ValueError(f"names={name!r}: expected some of {', '.join(PROTOCOLS)}")
  return Evaluation(names, fars, every, batch_size, bootstrap, headline,
                    False if flip == "none" else flip)


@register.compute
def compute(*, rounds_per_dispatch: Count = 5, clients_per_chunk: Count = 1,
            checkpoint_every: Count = 25,
            resident: Literal["auto", "true", "false"] = "auto") -> Compute:
  """How a run is carried out; nothing here changes what is learned beyond float tolerance.

  Args:
    rounds_per_dispatch: rounds that run without a return to the host.
    clients_per_chunk: clients side by side on a device: 1 on a CPU, many on an accelerator.
    checkpoint_every: rounds.
    resident: whether the training images live on the device; `auto` goes by their size.
  """
  return Compute(rounds_per_dispatch, clients_per_chunk, checkpoint_every, resident)
