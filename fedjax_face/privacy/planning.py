"""From a small simulation to a large population: how many clients does a target epsilon take?

Utility depends on the noise on the mean update, zC/K. With the clip norm, the number of rounds and
zC/K held at what a small simulation tolerates, more virtual clients K allow more noise z: a
population that can afford K -> cK pays epsilon(cz) instead of epsilon(z), at q = Km/N.
The way in which McMahan et al. 2018 (arXiv 1710.06963) and Xu et al. 2023 (arXiv 2211.10844)
extrapolate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import dp_accounting

from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip

# Noise on the sum over the clip norm: less promises nothing, more drowns everything.
NOISE_RANGE = (1e-4, 1e6)
LARGEST_COUNT = 10**12      # people, clients or rounds
SAMPLING = {"fixed": Adjacency.REPLACE_ONE, "poisson": Adjacency.ADD_OR_REMOVE_ONE}


@dataclasses.dataclass(frozen=True)
class Simulation:
  """What a small run has shown to be tolerable.

  Attributes:
    virtual_clients: K, clients in a round.
    users_per_client: m; with m > 1 one user moves a client's update anywhere in the clip ball, so
      the sensitivity is twice the clip norm.
    noise_multiplier: z, noise on the SUM divided by the clip norm.
    rounds: T.
    sampling: "fixed" (fixed size, replace-one) or "poisson" (add-or-remove-one).
  """

  virtual_clients: int
  users_per_client: int
  noise_multiplier: float
  rounds: int
  sampling: str

  def __post_init__(self) -> None:
    for name in ("virtual_clients", "users_per_client", "rounds"):
      _check_count(name, getattr(self, name))
    smallest, largest = NOISE_RANGE
    if not smallest <= self.noise_multiplier <= largest:
      raise ValueError(f"noise_multiplier must be between {smallest:g} and {largest:g}, got "
                       f"{self.noise_multiplier:g}")
    if self.sampling not in SAMPLING:
      raise ValueError(f"sampling must be one of {', '.join(SAMPLING)}, got {self.sampling!r}")

  @property
  def adjacency(self) -> Adjacency:
    """The adjacency that the sampling scheme is accounted under."""
    return SAMPLING[self.sampling]

  @property
  def sensitivity(self) -> float:
    """Of the sum of clipped updates, in units of the clip norm: 1 or 2."""
    return UpdateClip(self.users_per_client, self.adjacency).sensitivity


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run on `population` users with the simulation's noise on the mean.

  Attributes:
    population: N.
    virtual_clients: K.
    noise_multiplier: z, noise on the sum / clip norm.
    effective_multiplier: z / sensitivity, what epsilon depends on.
    sampling_rate: q = Km/N.
    rdp: epsilon by RDP.
    pld: epsilon by PLD.
    meets_target: the smaller of the two is at most the target; None without a target.
  """

  population: int
  virtual_clients: int
  noise_multiplier: float
  effective_multiplier: float
  sampling_rate: float
  rdp: float
  pld: float
  meets_target: bool | None = None


def run_event(simulation: Simulation, population: int,
              virtual_clients: int) -> dp_accounting.DpEvent:
  """All rounds of a run with `virtual_clients` and the simulation's noise on the mean.

  Raises:
    ValueError: a round would need more users than there are, or there are too many to count.
  """
  _check_count("population", population)
  users = virtual_clients * simulation.users_per_client
  if users > population:
    raise ValueError(f"virtual_clients={virtual_clients} of users_per_client="
                     f"{simulation.users_per_client} need {users} users, population={population}")
  gaussian = dp_accounting.GaussianDpEvent(
      _noise_multiplier(simulation, virtual_clients) / simulation.sensitivity)
  if simulation.sampling == "fixed":
    one = dp_accounting.dp_event.SampledWithoutReplacementDpEvent(population, users, gaussian)
  else:
    one = dp_accounting.PoissonSampledDpEvent(users / population, gaussian)
  return dp_accounting.SelfComposedDpEvent(one, simulation.rounds)


def plan(simulation: Simulation, population: int, virtual_clients: int, delta: float,
         target_epsilon: float | None = None) -> Plan:
  """Epsilon by both accountants of the run with `virtual_clients` on `population` users."""
  report = accounting.epsilon(
      run_event(simulation, population, virtual_clients), delta, simulation.adjacency)
  noise = _noise_multiplier(simulation, virtual_clients)
  return Plan(population, virtual_clients, noise, noise / simulation.sensitivity,
              virtual_clients * simulation.users_per_client / population, report.rdp, report.pld,
              None if target_epsilon is None else report.best <= target_epsilon)


def smallest_cohort(simulation: Simulation, population: int, target_epsilon: float, delta: float,
                    progress: Callable[[int, float], None] | None = None) -> Plan:
  """The run with the fewest virtual clients (never fewer than simulated) that meets the target.

  With zC/K fixed, epsilon falls as K grows up to K = N/m, where everybody takes part: if even that
  run misses the target, it is returned with `meets_target` False.

  Args:
    simulation: what is tolerable.
    population: N, at least the simulation's users per round.
    target_epsilon: > 0.
    delta: in (0, 1).
    progress: called with (K, epsilon) after every evaluation.

  Raises:
    ValueError: a population smaller than one simulated round, or a target that is not positive and
      finite.
  """
  if not 0 < target_epsilon < math.inf:
    raise ValueError(f"target_epsilon must be positive and finite, got {target_epsilon}")

  def meets(virtual_clients: int) -> bool:
    epsilon = accounting.smallest_finite(
        run_event(simulation, population, virtual_clients), delta, simulation.adjacency)
    if progress is not None:
      progress(virtual_clients, epsilon)
    return epsilon <= target_epsilon

  fewest = simulation.virtual_clients
  most = max(population // simulation.users_per_client, fewest)
  if meets(fewest):
    return plan(simulation, population, fewest, delta, target_epsilon)
  missing = fewest
  enough = min(2 * missing, most)
  while not meets(enough):
    if enough == most:
      return plan(simulation, population, most, delta, target_epsilon)
    missing, enough = enough, min(2 * enough, most)
  while enough - missing > 1:
    middle = (missing + enough) // 2
    missing, enough = (missing, middle) if meets(middle) else (middle, enough)
  return plan(simulation, population, enough, delta, target_epsilon)


def noise_norm_ratio(noise_multiplier: float, clients: float, parameters: int) -> float:
  """Norm of the noise on the mean update over the clip norm: z sqrt(P) / K.

  Noise of standard deviation zC/K on each of P parameters is a vector of norm zC sqrt(P) / K, and a
  mean of updates clipped to C has at most norm C, reached where all clients agree. Above 1 the
  noise of a round is therefore longer than any update that a round can have, and 1 over the ratio
  is the largest signal-to-noise ratio of a round. Over T rounds that pull the same way the signal
  grows by T and independent noise by sqrt(T), so a ratio far above sqrt(T) drowns a whole run.
  Fewer parameters help as more clients do.

  Args:
    noise_multiplier: z, noise on the sum / clip norm.
    clients: K.
    parameters: P, numbers in an update.
  """
  return noise_multiplier * math.sqrt(parameters) / clients


def noise_norm_warning(ratio: float) -> str | None:
  """A line where the noise on the mean is longer than any clipped update, else None."""
  if not ratio > 1:
    return None
  return (f"noise on the mean has norm {ratio:.3g} times the clip norm: longer than any client's "
          "update; more method.clients.per_round at the same method.aggregate.noise_multiplier (a "
          "larger population, or a larger privacy.epsilon) or fewer trained parameters shorten it")


def _noise_multiplier(simulation: Simulation, virtual_clients: int) -> float:
  return simulation.noise_multiplier * virtual_clients / simulation.virtual_clients


def _check_count(name: str, value: int) -> None:
  if not 0 < value <= LARGEST_COUNT:
    raise ValueError(f"{name} must be between 1 and {LARGEST_COUNT:.0e}"
                     if value > 0 else f"{name} must be positive, got {value}")
