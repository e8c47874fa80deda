"""What a run is told beside its method and its data: budget, evaluation, how it is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from fedjax_face.data.regions.kinds import Proposals
from fedjax_face.data.regions.proposers import grid
from fedjax_face.method import Budget
from fedjax_face.options import OptionError, above, at_least, register, within

Count = Annotated[int, at_least(1)]
NotNegative = Annotated[int, at_least(0)]
Probability = Annotated[float, within("[0, 1]")]
Rate = Annotated[float, within("(0, 1]")]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How a model is judged, and how often; see the factories.

  Attributes:
    feeds: what is judged: "embeddings", "face_tasks" or "classes", as of data and methods.
    every: so many rounds, beside the first and the last; 0: these alone.
    batch_size: images at a time.
    bootstrap: resamples for the intervals; 0 for none.
    headline: metrics that tables name first.
    options: of the kind of evaluation.
  """

  feeds: str
  every: int
  batch_size: int
  bootstrap: int
  headline: tuple[str, ...]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def section(self) -> dict[str, Any]:
    """All of it by name, as the loop and the evaluators read it."""
    return {"every": self.every, "batch_size": self.batch_size, "bootstrap": self.bootstrap,
            "headline": self.headline, **self.options}


class Rehearsed(NamedTuple):
  """What was chosen by rehearsal on public people; see `rehearsed`."""

  public: str
  people: int
  judges: int
  chose: tuple[str, ...]


class Compute(NamedTuple):
  """How a run is carried out; see `compute`."""

  rounds_per_dispatch: int
  clients_per_chunk: int
  checkpoint_every: int
  resident: str
  wandb: str
  starts: str = ""
  allow_other_platform: bool = False
  restart_same_noise: bool = False


class Detections(NamedTuple):
  """How candidates become faces; see `detections`."""

  threshold: float
  refinements: int
  overlap: float
  voters: int


register.kind(Budget)
register.kind(Evaluation)
register.kind(Compute)
register.kind(Rehearsed)
register.kind(Detections)


@register.budget
def budget(epsilon: Annotated[float, above(0)] | None = None,
           delta: Annotated[float, within("(0, 1)")] = 1e-5,
           unit: Literal["person", "image", "region"] | None = None,
           noise_seed: NotNegative | None = None) -> Budget:
  """What a run may reveal of one unit.

  Args:
    epsilon: the total over the whole run, to which noise is calibrated; None: the method says its
      own noise, or adds none.
    delta: below one over the number of units.
    unit: of which epsilon is meant; None: that which the method protects, the person but for
      single images. The adjacency follows from how the method samples.
    noise_seed: makes noise that anybody can draw again, so that nothing is protected: for tests.
  """
  return Budget(epsilon, delta, unit, noise_seed)


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
  return Evaluation("embeddings", every, batch_size, bootstrap, headline, {
      "protocols": names, "fars": fars, "flip": False if flip == "none" else flip})


@register.detections
def detections(*, threshold: Probability = 0.9, refinements: NotNegative = 1,
               overlap: Probability = 0.1, voters: Count = 5) -> Detections:
  """How the candidates on a photograph become faces; see `evaluation.detection`.

  Args:
    threshold: faces with a lower probability are not drawn.
    refinements: how often boxes are made from landmarks and scored again.
    overlap: candidates that overlap more are of one face.
    voters: best candidates of a face of which the medians are taken.
  """
  return Detections(threshold, refinements, overlap, voters)


@register.evaluation
def face_tasks(*, every: NotNegative = 25, batch_size: Count = 128, bootstrap: NotNegative = 300,
               photographs: NotNegative = 40, proposer: Proposals = grid(),
               detections: Detections = detections(), ranking_threshold: Probability = 0.05,
               headline: tuple[str, ...] = (
                   "detection_accuracy", "gender_accuracy", "landmark_nme", "visibility_accuracy",
                   "pose_mse")) -> Evaluation:
  """Scores of five face tasks on regions, and average precision on whole photographs.

  Args:
    every, batch_size, bootstrap, headline: as of `protocols`.
    photographs: of each source, for the average precision.
    proposer: of candidates on them.
    detections: how candidates become faces.
    ranking_threshold: the average precision ranks down to this probability.
  """
  return Evaluation("face_tasks", every, batch_size, bootstrap, headline, {
      "photographs": photographs, "proposer": proposer.section,
      "detection": detections._asdict(), "ranking_threshold": ranking_threshold})


@register.evaluation
def classification(*, every: NotNegative = 10, batch_size: Count = 128,
                   bootstrap: NotNegative = 300,
                   headline: tuple[str, ...] = (
                       "accuracy", "accuracy_noised", "accuracy_ceiling")) -> Evaluation:
  """Accuracy on other images of the people who train, with and without noise on activations.

  Args:
    every, batch_size, bootstrap, headline: as of `protocols`.
  """
  return Evaluation("classes", every, batch_size, bootstrap, headline)


@register.rehearsed
def rehearsed(public: str, *, people: Count, judges: Count, chose: tuple[str, ...]) -> Rehearsed:
  """That values were chosen by `rehearse` on public people, which the statement says.

  Args:
    public: name of the set.
    people: in it.
    judges: of them.
    chose: what was chosen: "method.aggregate.clip_norm=0.7".
  """
  if not chose:
    raise OptionError("chose=(): expected what was chosen; it is for a rehearsal to write")
  return Rehearsed(public, people, judges, chose)


@register.compute
def compute(*, rounds_per_dispatch: Count = 5, clients_per_chunk: Count = 1,
            checkpoint_every: Count = 25,
            resident: Literal["auto", "true", "false"] = "auto", wandb: str = "",
            starts: str = "", allow_other_platform: bool = False,
            restart_same_noise: bool = False) -> Compute:
  """How a run is carried out; nothing here changes what is learned beyond float tolerance.

  Args:
    rounds_per_dispatch: rounds that run without a return to the host.
    clients_per_chunk: clients side by side on a device: 1 on a CPU, many on an accelerator.
    checkpoint_every: rounds.
    resident: whether the training images live on the device; `auto` goes by their size.
    wandb: project of Weights & Biases, a third party, to which metrics are sent; "" for none.
    starts: folder in which what is trained before a run is kept, and found by all runs that start
      alike on the same images, by digest; "" for none. Of a module of your own the digest knows the
      repr and not the code.
    allow_other_platform: an interrupted run may go on with other devices, versions or instructions,
      which its statement then says; else it is refused.
    restart_same_noise: a run whose checkpoints are lost begins again, with the same noise on the
      same data, so that nothing is released twice; else it is refused.
  """
  return Compute(rounds_per_dispatch, clients_per_chunk, checkpoint_every, resident, wandb, starts,
                 allow_other_platform, restart_same_noise)
