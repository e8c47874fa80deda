"""What the attacks on activations found: as JSON, as figures, as a table."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face.attacks.activation_suite import Findings
from fedjax_face.attacks.attacked import Attacked
from fedjax_face.attacks.averaging import Averaged
from fedjax_face.attacks.distinguishing import Distinguishing
from fedjax_face.attacks.error_rates import Guess, Separation
from fedjax_face.attacks.reconstruction import Quality
from fedjax_face.evaluation.confidence import Estimate
from fedjax_face.figures import activation_figure, figures, reconstruction_figure
from fedjax_face.figures.activation_figure import Setting
from fedjax_face.runs.records import write_json

_NOTHING = Estimate(math.nan, math.nan, math.nan)
_COLUMNS = ("cut", "epsilon", "accuracy", "noised", "ceiling", "SSIM", "recognised",
            "told apart, FPR 1 %", "bound", "members, FPR 1 %")


class Played(NamedTuple):
  """One setting: the metrics of its run and what the attacks on it found."""

  epsilon: float
  metrics: Mapping[str, Any]
  findings: Findings


def report(asked: Mapping[str, Any], played: Mapping[str, Sequence[Played]], workdir: pathlib.Path,
           *, delta: float, title: str, people_in_grid: int) -> Attacked:
  """Writes attack.json, attack.png and a grid of reconstructions for each cut.

  Args:
    asked: what attack.json says of the suite.
    played: cut -> its settings.
    workdir: where the files go.
    delta: of the epsilons.
    title: of the figure and the table.
    people_in_grid: rows of a grid.
  """
  settings = {cut: [_setting(p) for p in rows] for cut, rows in played.items()}
  record = {"config": dict(asked),
            "settings": {cut: [_record(p) for p in rows] for cut, rows in played.items()}}
  write_json(workdir / "attack.json", record)
  figures.save(activation_figure.utility_and_attacks(settings, delta=delta, title=title),
               workdir / "attack.png")
  shown = slice(people_in_grid)
  for cut, rows in played.items():
    figures.save(reconstruction_figure.reconstructions(
        rows[0].findings.originals[shown],
        {p.epsilon: p.findings.rebuilt[shown] for p in rows}, mechanism="decoder", cut=cut,
        delta=delta), workdir / f"reconstructions_{cut}.png")
  return Attacked(record, title, _COLUMNS, [
      (cut, "none" if math.isinf(s.epsilon) else f"{s.epsilon:g}",
       *map(_cell, (s.accuracy.value, s.accuracy_noised.value, s.ceiling, s.ssim.value,
                    s.recognised.value, s.distinguished.value, s.bound, s.members.value)))
      for cut, rows in settings.items() for s in rows])


def _cell(value: float) -> str:
  """A number of the table; without noise there is no release to tell pictures apart by."""
  return "-" if math.isnan(value) else f"{value:.3f}"


def _setting(played: Played) -> Setting:
  """What is drawn of one setting."""
  metrics, found = played.metrics, played.findings
  told = found.distinguished and found.distinguished.guarantee
  return Setting(
      epsilon=played.epsilon,
      accuracy=_estimate(metrics["accuracy"]),
      accuracy_noised=_estimate(metrics["accuracy_noised"]),
      ceiling=float(metrics["accuracy_ceiling"]["value"]),
      recognised=found.recognised.reconstructions.accuracy,
      recognisable=found.recognised.reconstructions.largest,
      originals=found.recognised.originals.accuracy.value,
      ssim=found.quality.ssim,
      blind=found.blind.ssim.value,
      members=found.members_by_transcript.points[0].true_positive_rate,
      distinguished=told.points[0].true_positive_rate if told else _NOTHING,
      bound=told.points[0].bound if told else 1.0,
  )


def _estimate(metric: Mapping[str, Any]) -> Estimate:
  return Estimate(*(float(metric[name]) for name in ("value", "low", "high")))


def _record(played: Played) -> dict[str, Any]:
  """JSON of one setting."""
  found = played.findings
  return {
      "epsilon": "none" if math.isinf(played.epsilon) else played.epsilon,
      "metrics": dict(played.metrics),
      "reconstruction": _quality(found.quality), "mean_picture": _quality(found.blind),
      "inversion": _quality(found.inverted),
      "recognised": _guess(found.recognised.reconstructions),
      "recognised_on_originals": _guess(found.recognised.originals),
      "distinguishing": _distinguishing(found.distinguished),
      "distinguishing_canaries": _distinguishing(found.audited),
      "noise": _averaging(found.noise), "repeated_noise": found.repeated,
      "averaging": _averaging(found.averaged),
      "labels_from_gradients": {f"{z:g}": {
          "by_residual": _guess(own.by_residual), "by_clusters": _guess(own.by_clusters),
          "by_norm": _separation(own.by_norm), "by_cosine": _separation(own.by_cosine)}
          for z, own in found.labels.items()},
      "membership_loss": _separation(found.members),
      "membership_transcript": _separation(found.members_by_transcript),
      "membership_lira": _separation(found.members_by_ratio),
      "gender": _guess(found.trait),
  }


def _quality(found: Quality | None) -> dict[str, Any] | None:
  return None if found is None else {name: e._asdict() for name, e in found._asdict().items()}


def _guess(found: Guess | None) -> dict[str, Any] | None:
  return None if found is None else {
      "accuracy": found.accuracy._asdict(), "chance": found.chance, "largest": found.largest,
      "exceeds_bound": bool(found.exceeds_bound)}


def _separation(found: Separation | None) -> dict[str, Any] | None:
  if found is None:
    return None
  return {"auc": found.auc._asdict(), "largest_auc": found.largest_auc, "points": [
      {"false_positive_rate": p.target, "true_positive_rate": p.true_positive_rate._asdict(),
       "bound": p.bound, "exceeds_bound": bool(p.exceeds_bound)} for p in found.points]}


def _distinguishing(found: Distinguishing | None) -> dict[str, Any] | None:
  """Beside the guarantee, and beside what the claimed noise allows for these two activations."""
  if found is None:
    return None
  return (_separation(found.guarantee) or {}) | {
      "distance": found.distance, "by_distance": _separation(found.pair)}


def _averaging(found: Averaged | None) -> dict[str, Any] | None:
  return None if found is None else {
      "releases": found.releases, "error": found.error._asdict(), "fresh": found.fresh,
      "cached": found.cached, "below_fresh": bool(found.below_fresh)}
