"""Aggregates: how a round's updates become a mean update, as parts that a method is given.

An aggregate is chosen before it is known who takes part; bound to that it is an `Aggregator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from fedjax_face.federated import aggregators, robust
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.participation import Participation
from fedjax_face.options import OptionError, Traced, above, at_least, register, within
from fedjax_face.privacy import noise
from fedjax_face.privacy.clipping import UpdateClip

ClipNorm = Annotated[Traced, within("(0, inf]")]
NoiseMultiplier = Annotated[Traced, at_least(0)]


class Aggregate(NamedTuple):
  """How updates are clipped, summed and noised.

  Attributes:
    bind: (who takes part, rounds of the run) -> Aggregator, whose clip knows its sensitivity under
      the adjacency of the participation.
  """

  bind: Callable[[Participation, int], Aggregator]


register.kind(Aggregate)


@register.aggregate
def gaussian(*, clip_norm: ClipNorm = 0.5,
             noise_multiplier: NoiseMultiplier | None = None) -> Aggregate:
  """Clipped mean with fresh Gaussian noise every round.

  Args:
    clip_norm: C, largest L2 norm of a client's update, all tensors together; above 0, infinite for
      no clipping.
    noise_multiplier: z, standard deviation of the noise on the sum over C, at least 0; None: what
      the budget asks for.

  Source: DP-FedAvg (McMahan et al. 2018, Algorithm 1), DP-FedEmb (Xu et al. 2023, Algorithm 1).
  """
  del clip_norm, noise_multiplier  # traced
  return Aggregate(lambda who, rounds: aggregators.noised_mean(
      _clip(who), who.clients, noise.gaussian()))


@register.aggregate
def adaptive(*, clip_norm: ClipNorm = 0.5, noise_multiplier: NoiseMultiplier | None = None,
             quantile: Annotated[float, within("[0, 1]")] = 0.5,
             clip_learning_rate: Annotated[float, at_least(0)] = 0.2,
             count_stddev_per_client: Annotated[float, above(0)] = 0.05) -> Aggregate:
  """Gaussian mean whose clip norm follows a quantile of the norms of the updates.

  Args:
    clip_norm: C of the first round; above 0.
    noise_multiplier: z of updates and count together, over C, at least 0 and below twice the
      standard deviation of the count; None: what the budget asks for.
    quantile: share of the clients whose norm should lie within C, 0 to 1.
    clip_learning_rate: of the geometric update of C, a factor exp(-rate (share - quantile)).
    count_stddev_per_client: standard deviation of the count of norms within C, over the number of
      clients; above 0.

  Source: Andrew, Thakkar, McMahan, Ramaswamy, NeurIPS 2021, Algorithm 1 and Theorem 1.
  """
  del clip_norm, noise_multiplier  # traced
  return Aggregate(lambda who, rounds: aggregators.adaptive_clip(
      _clip(who), who.clients, quantile=quantile, learning_rate=clip_learning_rate,
      count_stddev_per_client=count_stddev_per_client))


@register.aggregate
def correlated(*, clip_norm: ClipNorm = 0.5, noise_multiplier: NoiseMultiplier | None = None,
               strategy: Literal["banded", "buffered_toeplitz"] = "banded") -> Aggregate:
  """Clipped mean with noise that partly cancels over rounds (matrix factorisation, DP-FTRL).

  Binding it raises ValueError where the participation enforces no separation of rounds.

  Args:
    clip_norm: C, as of `gaussian`.
    noise_multiplier: z, standard deviation over C of the independent noise before it is
      correlated, at least 0; None: what the budget asks for.
    strategy: `banded` (banded Toeplitz, Choquette-Choo et al. 2023, arXiv 2306.08153) or
      `buffered_toeplitz` (Dvijotham et al. 2024, arXiv 2404.16706; McMahan et al. 2024,
      arXiv 2408.08868).
  """
  del clip_norm, noise_multiplier  # traced

  def bind(who: Participation, rounds: int) -> Aggregator:
    if who.rounds_per_event == 1:
      raise ValueError("method.aggregate=correlated needs method.clients.sampling=cyclic_fixed or "
                       "cyclic_poisson, which enforce a min_separation")
    return aggregators.noised_mean(
        _clip(who), who.clients, noise.correlated(strategy, rounds, who.rounds_per_event))

  return Aggregate(bind)


@register.aggregate
def clipped(*, clip_norm: ClipNorm = 0.5) -> Aggregate:
  """Clipped mean without noise: no privacy.

  Args:
    clip_norm: C, as of `gaussian`.
  """
  del clip_norm  # traced
  return Aggregate(lambda who, rounds: aggregators.clipped_mean(_clip(who), who.clients))


@register.aggregate
def mean() -> Aggregate:
  """Mean weighted by numbers of examples, neither clipped nor noised: no privacy.

  Source: McMahan et al., AISTATS 2017 (FedAvg), Algorithm 1.
  """
  return Aggregate(lambda who, rounds: aggregators.weighted_mean())


@register.aggregate
def coordinate_median(*, clip_norm: ClipNorm = math.inf) -> Aggregate:
  """Median of every coordinate over the clients' updates.

  While fewer than half of the clients send anything they like, it stays within what the others
  send.

  The update of every client of a round is kept until the last has arrived. No noise, no privacy.

  Args:
    clip_norm: C, as of `gaussian`; infinite for no clipping.

  Source: Yin, Chen, Ramchandran, Bartlett, ICML 2018, Definition 1 and Algorithm 1, option I.
  """
  del clip_norm  # traced
  return Aggregate(lambda who, rounds: robust.robust(
      _clip(who), robust.median_of, "median of every coordinate"))


@register.aggregate
def trimmed_mean(*, clip_norm: ClipNorm = math.inf,
                 trim: Annotated[float, within("(0, 0.5)")] = 0.2) -> Aggregate:
  """Mean of every coordinate without its lowest and highest values.

  The update of every client of a round is kept until the last has arrived. No noise, no privacy.
  Binding it raises OptionError where no client of a round would be left out.

  Args:
    clip_norm: C, as of `gaussian`; infinite for no clipping.
    trim: share of the clients left out at each end of each coordinate, rounded down: the largest
      share that may send anything; above 0, below 0.5.

  Source: Yin, Chen, Ramchandran, Bartlett, ICML 2018, Definition 2 and Algorithm 1, option II.
  """
  del clip_norm  # traced

  def bind(who: Participation, rounds: int) -> Aggregator:
    if not robust.trimmed(trim, who.clients):
      raise OptionError(f"method.aggregate.trim={trim:g}: leaves out none of the {who.clients} "
                        "clients of a round; trim times clients must be at least 1")
    return robust.robust(_clip(who), robust.trimmed_mean_of(trim),
                         f"mean of every coordinate without {trim:.0%} of the clients at each end")

  return Aggregate(bind)


@register.aggregate
def krum(*, clip_norm: ClipNorm = math.inf, malicious: Annotated[int, at_least(0)] = 1,
         selected: Annotated[int, at_least(1)] = 1) -> Aggregate:
  """The update whose nearest neighbours are nearest (Krum), or the mean of several (Multi-Krum).

  The score of an update is the sum of its squared distances to the K - f - 2 nearest others. The
  update of every client of a round is kept until the last has arrived. No noise, no privacy.
  Binding it raises OptionError where the clients are too few for it.

  Args:
    clip_norm: C, as of `gaussian`; infinite for no clipping.
    malicious: f, clients of a round that may send anything; 2 f + 2 < K.
    selected: m, updates with the lowest scores that are averaged, 1 to K - f; 1 is Krum.

  Source: Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, Krum and Multi-Krum.
  """
  del clip_norm  # traced

  def bind(who: Participation, rounds: int) -> Aggregator:
    if 2 * malicious + 2 >= who.clients:
      raise OptionError(f"method.aggregate.malicious={malicious}: 2 f + 2 must be below the "
                        f"{who.clients} clients of a round")
    if selected > who.clients - malicious:
      raise OptionError(f"method.aggregate.selected={selected}: expected at most "
                        f"{who.clients - malicious}, the {who.clients} clients of a round without "
                        f"{malicious} malicious")
    return robust.robust(
        _clip(who), robust.nearest_of(malicious, selected),
        f"mean of the {selected} updates nearest to their neighbours (Krum, {malicious} malicious)")

  return Aggregate(bind)


def _clip(who: Participation) -> UpdateClip:
  return UpdateClip(who.users_per_client, who.adjacency)
