"""The suite of `configs/activation_attacks.py`: trains every cut and epsilon, and attacks each."""

from __future__ import annotations

import inspect
import math
import pathlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.algorithms import parts
from fedjax_face.attacks import activation_suite, decoder, inversion
from fedjax_face.attacks.activation_suite import Findings
from fedjax_face.attacks.averaging import Averaged
from fedjax_face.attacks.distinguishing import Distinguishing
from fedjax_face.attacks.error_rates import Separation
from fedjax_face.data.sources import Sources
from fedjax_face.evaluation.confidence import Estimate
from fedjax_face.figures import activation_figure, figures, reconstruction_figure
from fedjax_face.figures.activation_figure import Setting
from fedjax_face.method.algorithm import Algorithm, Data
from fedjax_face.training import checkpoint, experiment, run
from fedjax_face.training.evaluator import on_one_device
from fedjax_face.training.records import write_json
from fedjax_face.training.streams import BEFORE_ROUNDS, public_root, step_keys

_NOTHING = Estimate(math.nan, math.nan, math.nan)


class _Played(NamedTuple):
  """One setting: the summary of its run and what the attacks on it found."""
  epsilon: float
  summary: Mapping[str, Any]
  findings: Findings


def play(config: Any, workdir: pathlib.Path) -> None:
  """Runs the suite; what a workdir already holds is not trained again."""
  module = runpy.run_path(config.config)
  _check(config, module)
  sources: Sources | None = None
  played: dict[str, list[_Played]] = {}
  for cut in config.cuts:
    for epsilon in (*config.epsilons, *([math.inf] if config.without_noise else [])):
      own = module["get_config"](config.variant)
      own.seed = config.seed
      finite = not math.isinf(epsilon)
      own.update_from_flattened_dict(module["CUTS"][cut] | {
          "privacy.epsilon": epsilon if finite else None,
          "hparams.noise_multiplier": None if finite else 0.0})
      sources = experiment.load_sources(own) if sources is None else sources
      name = f"{cut}_{epsilon:g}"
      print(f"{name}: training", file=sys.stderr, flush=True)
      summary, _ = run.run(own, workdir / name, sources, workdir / "public_stages")
      print(f"{name}: attacks", file=sys.stderr, flush=True)
      findings = _attacked(config, own, workdir / name, sources)
      played.setdefault(cut, []).append(_Played(epsilon, summary, findings))
  assert sources is not None  # there is a setting
  _write(config, own, played, sources, workdir)


def _check(config: Any, module: Mapping[str, Any]) -> None:
  """Finds mistakes before anything is loaded.

  Raises:
    ValueError: naming the value and what is expected.
  """
  for cut in config.cuts:
    if cut not in module["CUTS"]:
      raise ValueError(f"config.cuts: {cut!r} is not one of {', '.join(module['CUTS'])}")
  if not config.cuts or not (config.epsilons or config.without_noise):
    raise ValueError("config.cuts and config.epsilons: nothing to attack")
  for name, least in (("trials", 1), ("shadows", 0), ("people_in_grid", 1)):
    if config[name] < least:
      raise ValueError(f"config.{name}={config[name]}: expected at least {least}")
  for name in ("epsilons", "label_noise"):
    if not all(value >= 0 and (value > 0 or name == "label_noise") for value in config[name]):
      raise ValueError(f"config.{name}={config[name]}: expected numbers above 0, of label_noise at "
                       "least 0")
  _check_names("decoder", config.decoder, decoder.train_decoder)
  _check_names("inversion", config.inversion, inversion.inversion, "pictures")


def _check_names(section: str, given: Mapping[str, Any], function: Any, *more: str) -> None:
  known = {name for name, parameter in inspect.signature(function).parameters.items()
           if parameter.kind is parameter.KEYWORD_ONLY} | set(more)
  if wrong := set(given) ^ known:
    raise ValueError(f"config.{section}: {min(wrong)!r} is missing or unknown; expected "
                     f"{', '.join(sorted(known))}")


def _attacked(config: Any, own: Any, folder: pathlib.Path, sources: Sources) -> Findings:
  """Attacks the finished run in a folder."""
  built = experiment.build(own, folder, lambda line: None, sources=sources)
  found = checkpoint.restore(
      folder / "checkpoints", jax.eval_shape(built.algorithm.init, jax.random.key(0)), print)
  assert found is not None
  state = on_one_device(jax.tree.map(jnp.asarray, found.state))
  received, order = _transcript(built.algorithm, sources, config.seed)
  model = parts.model(own, sources.train, sources.train.num_labels)
  embed = jax.jit(lambda images: model.embed(built.backbone, images))
  noise_multiplier = built.algorithm.hparams["activations"]["noise_multiplier"]
  return activation_suite.attack(
      built.algorithm.parts, state, noise_multiplier, received, order, sources, embed,
      config.to_dict(), jax.random.key(config.seed))


def _transcript(algorithm: Algorithm, sources: Sources, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """What the server receives, from the run's own code, and the picture that each row is of.

  The noise is another draw: that of the run is erased at its end.
  """
  assert algorithm.prepare is not None
  scalars = jax.tree.map(jnp.float32, algorithm.hparams)
  keys = step_keys(seed, public_root(seed), BEFORE_ROUNDS)
  prepare = jax.jit(algorithm.prepare)
  sent = prepare(Data(sources.train.images), scalars, keys)
  return np.asarray(sent.images), np.asarray(sent.targets["number"])


def _write(config: Any, own: Any, played: Mapping[str, Sequence[_Played]], sources: Sources,
           workdir: pathlib.Path) -> None:
  delta = own.privacy.delta
  settings = {cut: [_setting(p) for p in rows] for cut, rows in played.items()}
  write_json(workdir / "attack.json", {
      "config": config.to_dict(),
      "settings": {cut: [_record(p) for p in rows] for cut, rows in played.items()}})
  title = (f"{sources.train.name}: {sources.train.num_persons} people, {len(sources.train)} "
           f"pictures; mode {own.split.mode}, replace-one")
  figures.save(activation_figure.utility_and_attacks(settings, delta=delta, title=title),
               workdir / "attack.png")
  for cut, rows in played.items():
    shown = slice(config.people_in_grid)
    figures.save(reconstruction_figure.reconstructions(
        rows[0].findings.originals[shown],
        {p.epsilon: p.findings.rebuilt[shown] for p in rows}, mechanism="decoder", cut=cut,
        delta=delta), workdir / f"reconstructions_{cut}.png")
  _print(settings, title)


def _setting(played: _Played) -> Setting:
  metrics, found = played.summary["metrics"], played.findings
  estimate = lambda name: Estimate(*(float(metrics[name][k]) for k in ("value", "low", "high")))
  told = found.distinguished and found.distinguished.guarantee
  return Setting(
      epsilon=played.epsilon,
      accuracy=estimate("accuracy"),
      accuracy_noised=estimate("accuracy_noised"),
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


def _record(played: _Played) -> dict[str, Any]:
  """JSON of one setting."""
  found = played.findings
  quality = lambda q: None if q is None else {k: e._asdict() for k, e in q._asdict().items()}
  guess = lambda g: None if g is None else {
      "accuracy": g.accuracy._asdict(), "chance": g.chance, "largest": g.largest,
      "exceeds_bound": bool(g.exceeds_bound)}
  return {
      "epsilon": "none" if math.isinf(played.epsilon) else played.epsilon,
      "metrics": dict(played.summary["metrics"]),
      "reconstruction": quality(found.quality), "mean_picture": quality(found.blind),
      "inversion": quality(found.inverted),
      "recognised": guess(found.recognised.reconstructions),
      "recognised_on_originals": guess(found.recognised.originals),
      "distinguishing": _distinguishing(found.distinguished),
      "distinguishing_canaries": _distinguishing(found.audited),
      "noise": _averaging(found.noise), "repeated_noise": found.repeated,
      "averaging": _averaging(found.averaged),
      "labels_from_gradients": {f"{z:g}": {name: guess(g) for name, g in own._asdict().items()}
                                for z, own in found.labels.items()},
      "membership_loss": _separation(found.members),
      "membership_transcript": _separation(found.members_by_transcript),
      "membership_lira": _separation(found.members_by_ratio),
      "gender": guess(found.trait),
  }


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


def _print(cuts: Mapping[str, Sequence[Setting]], title: str) -> None:
  from rich.console import Console
  from rich.table import Table
  table = Table(title=title)
  for column in ("cut", "epsilon", "accuracy", "noised", "ceiling", "SSIM", "recognised",
                 "told apart, FPR 1 %", "bound", "members, FPR 1 %"):
    table.add_column(column, justify="left" if column == "cut" else "right")
  for cut, settings in cuts.items():
    for s in settings:
      table.add_row(cut, "none" if math.isinf(s.epsilon) else f"{s.epsilon:g}",
                    *(f"{v:.3f}" for v in (
                        s.accuracy.value, s.accuracy_noised.value, s.ceiling, s.ssim.value,
                        s.recognised.value, s.distinguished.value, s.bound, s.members.value)))
  Console(width=None if sys.stdout.isatty() else 140).print(table)
