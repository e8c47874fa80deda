"""`plan`: how many clients a round a target epsilon takes in a population of N users."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.figures import figures
from fedjax_face.privacy import accounting, calibration, planning
from fedjax_face.privacy.planning import Plan, Simulation
from fedjax_face.runs import disk
from fedjax_face.runs.records import write_json

LENET_PARAMETERS = 453_632
"""Numbers in an update of the LeNet for 28x28 grey images and 128 embedding dimensions, without a
head."""
_TABLE = (0.01, 0.1, 1.0, 10.0)             # populations of the table, times N
_FIGURE = tuple(10 ** (i / 2) for i in range(-4, 3))
Say = Callable[[str], None]


class Question(NamedTuple):
  """What is planned.

  Attributes:
    population: users N that can take part.
    target_epsilon: of the whole run.
    delta: below 1/N.
    rounds: T.
    virtual_clients: K of the simulation, clients in a round.
    users_per_client: users m in a virtual client.
    noise_multiplier: z of the simulation: noise on the sum over the clip norm.
    noise_on_mean: instead of z: standard deviation z C / K on the mean.
    clip_norm: C, L2 norm of a client's update.
    parameters: numbers in an update.
    sampling: "fixed": K m users a round, replace-one; "poisson": K m expected, add-or-remove-one.
  """

  population: int
  target_epsilon: float
  delta: float
  rounds: int
  virtual_clients: int
  users_per_client: int
  noise_multiplier: float | None = None
  noise_on_mean: float | None = None
  clip_norm: float = 1.0
  parameters: int = LENET_PARAMETERS
  sampling: str = "fixed"


class Answer(NamedTuple):
  """What a plan says.

  Attributes:
    plans: the smallest cohort for several populations.
    simulation: what was simulated.
    record: plan.json: besides, curves of epsilon over the population.
  """

  plans: list[Plan]
  simulation: Simulation
  record: dict[str, Any]

  @property
  def noise_norm_ratio(self) -> float:
    """Norm of the noise on the mean over the clip norm; the same for every plan."""
    return self.record["noise_norm_ratio"]


def plan(question: Question | None = None, *, workdir: str | pathlib.Path | None = None,
         say: Say = lambda line: None, **asked: Any) -> Answer:
  """Keeps the noise on the mean update that a small simulation tolerates, and raises the clients.

  Args:
    question: what is planned; or its fields as keywords: `plan(population=1_000_000, ...)`.
    workdir: folder for plan.json and epsilon_vs_population.png; None: nothing is written.
    say: told what is computed.
    **asked: fields of a `Question`.

  Raises:
    ValueError: a number out of range, or a folder that cannot be written, before anything is
      computed.
  """
  options = Question(**asked) if question is None else question
  simulation = _simulation(options)
  _check(options, simulation)
  if workdir is not None:
    _prepare(disk.folder(workdir))
  plans = _plans(options, simulation, say)
  curves = _curves(options, simulation, plans, say)
  answer = Answer(plans, simulation, _record(options, simulation, plans, curves))
  if workdir is not None:
    write_json(pathlib.Path(workdir) / "plan.json", answer.record)
    _draw(curves, options, simulation, pathlib.Path(workdir))
  return answer


def _simulation(options: Question) -> Simulation:
  given, value = calibration.require_exactly_one({
      "noise_multiplier": options.noise_multiplier, "noise_on_mean": options.noise_on_mean})
  if not 0 < options.clip_norm < math.inf:
    raise ValueError(f"clip_norm={options.clip_norm}: expected a finite number above 0")
  if given == "noise_on_mean":
    value *= options.virtual_clients / options.clip_norm
  return Simulation(options.virtual_clients, options.users_per_client, value, options.rounds,
                    options.sampling)


def _check(options: Question, simulation: Simulation) -> None:
  if not 0 < options.target_epsilon < math.inf:
    raise ValueError(f"target_epsilon={options.target_epsilon}: expected a finite number "
                     "above 0")
  if not 0 < options.delta < 1:
    raise ValueError(f"delta={options.delta}: expected a number in (0, 1)")
  if options.parameters < 1:
    raise ValueError(f"parameters={options.parameters}: expected at least 1")
  planning.run_event(simulation, options.population, simulation.virtual_clients)


def _prepare(folder: pathlib.Path) -> None:
  """Makes the folder and tries to write in it, before anything is computed for it."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(f"workdir={folder}: expected a folder that can be written "
                     f"({error.strerror})") from error
  for name in ("plan.json", "epsilon_vs_population.png"):
    if (folder / name).is_dir():
      raise ValueError(f"workdir={folder}: {name} is a folder; expected a file or nothing")


def _populations(options: Question, simulation: Simulation,
                 factors: Sequence[float]) -> list[int]:
  """Populations around N that hold at least one simulated round."""
  smallest = simulation.virtual_clients * simulation.users_per_client
  return [n for n in (round(options.population * f) for f in factors) if n >= smallest]


def _plans(options: Question, simulation: Simulation,
           say: Say) -> list[Plan]:
  plans = []
  for population in _populations(options, simulation, _TABLE):
    def progress(clients: int, epsilon: float, population: int = population) -> None:
      say(f"N={population:,}: {clients:,} virtual clients, epsilon {epsilon:.3g}")

    plans.append(planning.smallest_cohort(
        simulation, population, options.target_epsilon, options.delta, progress))
  return plans


def _curves(options: Question, simulation: Simulation, plans: Sequence[Plan],
            say: Say) -> dict[int, list[tuple[int, float]]]:
  """K -> (N, epsilon) over the populations that hold K clients; K simulated and planned."""
  sizes = {simulation.virtual_clients, *(p.virtual_clients for p in plans if p.meets_target)}
  curves: dict[int, list[tuple[int, float]]] = {}
  for clients in sorted(sizes):
    say(f"figure: {clients:,} virtual clients")
    points = [
        (n, accounting.smallest_finite(planning.run_event(simulation, n, clients),
                                       options.delta, simulation.adjacency))
        for n in _populations(options, simulation, _FIGURE)
        if n >= clients * simulation.users_per_client]
    if points:
      curves[clients] = points
  return curves


def _noise_on_mean(options: Question, simulation: Simulation) -> float:
  return simulation.noise_multiplier * options.clip_norm / simulation.virtual_clients


def _noise_norm_ratio(options: Question, simulation: Simulation) -> float:
  """The same for every plan: they keep the noise on the mean."""
  return planning.noise_norm_ratio(
      simulation.noise_multiplier, simulation.virtual_clients, options.parameters)


def _record(options: Question, simulation: Simulation, plans: Sequence[Plan],
            curves: dict[int, list[tuple[int, float]]]) -> dict[str, Any]:
  """plan.json."""
  return {
      "unit": "user",
      "population": options.population,
      "adjacency": simulation.adjacency.value,
      "delta": options.delta,
      "target_epsilon": options.target_epsilon,
      "clip_norm": options.clip_norm,
      "noise_on_mean": _noise_on_mean(options, simulation),
      "parameters": options.parameters,
      "noise_norm_ratio": _noise_norm_ratio(options, simulation),
      "simulation": dataclasses.asdict(simulation),
      "smallest_cohorts": [dataclasses.asdict(p) for p in plans],
      "curves": [{"virtual_clients": k, "population": [n for n, _ in points],
                  "epsilon": [epsilon for _, epsilon in points]} for k, points in curves.items()],
  }


def _draw(curves: dict[int, list[tuple[int, float]]], options: Question,
          simulation: Simulation, folder: pathlib.Path) -> None:
  populations = _populations(options, simulation, _FIGURE)
  lines = {}
  for clients, points in curves.items():
    noise = simulation.noise_multiplier * clients / simulation.virtual_clients
    known = dict(points)
    if math.isinf(points[-1][1]):
      continue                    # no guarantee even in the largest population
    lines[f"K = {clients:,}, z = {noise:.3g}"] = [_drawn(known.get(n, np.nan)) for n in populations]
  drawing = figures.population_planning(
      populations, lines, target=options.target_epsilon, delta=options.delta, unit="user",
      adjacency=simulation.adjacency.value.replace("_", "-"))
  figures.save(drawing, folder / "epsilon_vs_population.png")


def _drawn(epsilon: float) -> float:
  """What a logarithmic axis can show: nan for no guarantee, and never next to 0."""
  return max(epsilon, 1e-6) if epsilon < math.inf else math.nan
