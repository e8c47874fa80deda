"""The leak-back attack as a study: every form, scale and strength of a correction, on files."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax

from fedjax_face.attacks import leak_back
from fedjax_face.attacks.attacked import Attacked, keywords, require_arguments
from fedjax_face.attacks.leak_back import Outcome
from fedjax_face.figures import figures, leak_back_figure
from fedjax_face.losses.gradient_correction import gradient_correction
from fedjax_face.options import at_least
from fedjax_face.runs.records import make_guarded, write_json

_OF_ATTACKER = {"rounds", "decoys", "length"}


class Study(NamedTuple):
  """Who is attacked, by which server, and how.

  Attributes:
    population: keyword arguments of `leak_back.isotropic_population`.
    server: `forms` of the correction, and `scales`, `strengths`, `margin`, `learning_rate`, `steps`
      and `noise_std` of `leak_back.study`.
    attacker: `rounds`, `decoys` and `length`, as there.
    seed: of the population and of the server's noise.
  """

  population: Mapping[str, Any]
  server: Mapping[str, Any]
  attacker: Mapping[str, Any]
  seed: Annotated[int, at_least(0)] = 0

  def play(self, workdir: pathlib.Path) -> Attacked:
    """Attacks, and writes attack.json and attack.png.

    Raises:
      ValueError: a form that there is not, or a population that makes no sense.
    """
    self._check()
    of_population, of_attack = jax.random.split(jax.random.key(self.seed))
    server = dict(self.server)
    forms = server.pop("forms")
    outcomes = leak_back.study(
        {form: gradient_correction(form, normalised=True) for form in forms},
        leak_back.isotropic_population(of_population, **self.population), of_attack,
        **server, **self.attacker)
    record = {"config": {"attack": "leak_back", **self._asdict()},
              "outcomes": [_record(outcome) for outcome in outcomes]}
    make_guarded(workdir)
    write_json(workdir / "attack.json", record)
    figures.save(leak_back_figure.recovered_templates(outcomes, title=self._said()),
                 workdir / "attack.png")
    return _table(record, outcomes, self._said())

  def _check(self) -> None:
    require_arguments("population", self.population, leak_back.isotropic_population,
                      keywords(leak_back.isotropic_population))
    require_arguments("server", self.server, leak_back.study,
                      keywords(leak_back.study) - _OF_ATTACKER | {"forms"})
    require_arguments("attacker", self.attacker, leak_back.study, _OF_ATTACKER)

  def _said(self) -> str:
    people = self.population
    return (f"{people['classes']} classes of {people['clients']} clients, {people['dim']} "
            f"dimensions, {people['targets']} targets, noise "
            f"{self.server['noise_std']:g} on returned rows")


def _record(outcome: Outcome) -> dict[str, Any]:
  return {"form": outcome.form, "scale": outcome.scale, "strength": outcome.strength,
          "probe": outcome.probe.value, "recovered": outcome.recovered._asdict()}


def _table(record: dict[str, Any], outcomes: Sequence[Outcome], said: str) -> Attacked:
  """A row for each form and scale, a column for each strength."""
  strengths = list(dict.fromkeys(outcome.strength for outcome in outcomes))
  by = {(o.form, o.scale, o.strength): o for o in outcomes}
  rows = []
  for form, scale in dict.fromkeys((o.form, o.scale) for o in outcomes):
    row = [by[form, scale, strength] for strength in strengths]
    rows.append((form.replace("_", " "), f"{scale:g}", f"{row[0].probe.value:.3f}",
                 *(f"{outcome.recovered.value:.3f}" for outcome in row)))
  return Attacked(record, f"cosine of recovered and true class embedding; {said}",
                  ("form", "scale", "probe", *(f"lambda {strength:g}" for strength in strengths)),
                  rows)
