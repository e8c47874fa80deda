r"""Evaluates the newest checkpoint of a run, on its own evaluation set or on another one.

python -m experiments.evaluate --workdir=RUN
python -m experiments.evaluate --workdir=RUN --data=lfw --protocols=lfw_view2,tar_at_far
python -m experiments.evaluate --workdir=RUN --data=folder --data_option=path=FACES \
    --protocols=recall_all_pairs,identification --fars=1e-2,1e-3

Writes evaluation.json, roc.png and det.png to RUN/evaluations/NAME (or --out). On the run's own
set, what the run compared itself with stands beside. A set that shares a person with the training
set is refused. A method that trains no embeddings is evaluated on its own set and by its own
metrics; its folder may be that of an edge server, if the device parts are frozen: they are built
again, and refused if they are not those of the run by the digest in its server.json.
"""

from __future__ import annotations

import ast
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import command_line

if TYPE_CHECKING:
  from fedjax_face.data.sources import Sources

_NEED_PAIRS = {"lfw_view2", "insightface", "tar_at_far"}


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_shared(values)
  text = lambda name, default, meaning: flags.DEFINE_string(
    name, default, meaning, flag_values=values)
  text("data", "", "name of a data set; default: the run's own evaluation set")
  flags.DEFINE_multi_string("data_option", [], "key=value of that data set, may be repeated",
                            flag_values=values)
  flags.DEFINE_list("protocols", [], "default: the config's", flag_values=values)
  flags.DEFINE_list("fars", [], "false accept rates; default: the config's", flag_values=values)
  flags.DEFINE_integer("pairs", 6000, "pairs drawn for protocols that need pairs, where the set "
                       "has no official ones", flag_values=values)
  flags.DEFINE_integer("bootstrap", None, "resamples over people; default: the config's",
                       flag_values=values)
  flags.DEFINE_enum("flip", "", ["", "none", "sum", "concat"], "flip test; default: the config's",
                    flag_values=values)
  text("out", "", "folder of the results; default RUN/evaluations/NAME")
  return values


def _evaluate(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  command_line.parse(values, arguments, __doc__)
  if values.workdir is None:
    raise ValueError("--workdir is required: the folder of a run")
  workdir = pathlib.Path(values.workdir)
  config = _config_of(workdir)
  embeds = bool(config.evaluation.get("protocols"))
  if embeds:
    _ask(config.evaluation, values)
  else:
    _refuse_protocols(config, values)
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)

  from fedjax_face.training import summary
  from fedjax_face.training.records import write_json
  done, outcome = _outcome(config, workdir, values) if embeds else _own_outcome(config, workdir)
  metrics, roc = summary.metrics_json(outcome), summary.roc_json(outcome)
  ran = {} if values.data or values.flip else _summary_of(workdir)
  references = _references(ran, metrics)
  if roc and ran.get("roc"):
    roc["tar"] |= _curves_beside(roc, ran["roc"])
  data = values.data or "evaluation set of the run"
  result = {"run": str(workdir), "rounds": done, "data": data, "metrics": metrics,
            "references": references, "roc": roc}
  out = pathlib.Path(values.out or workdir / "evaluations" / (values.data or "own"))
  out.mkdir(parents=True, exist_ok=True)
  write_json(out / "evaluation.json", result)
  command_line.save_roc(roc, command_line.curve_names(references, f"round {done}"), out)
  summary.print_metrics(f"{workdir} after {done} rounds on {data}", metrics, references)
  print(f"results: {out}")


def _summary_of(workdir: pathlib.Path) -> dict[str, Any]:
  """summary.json of the run; empty where it has not finished."""
  path = workdir / "summary.json"
  return json.loads(path.read_text()) if path.is_file() else {}


def _references(ran: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
  """What the run compared itself with, of the metrics that were asked for now."""
  found = {}
  for name, reference in ran.get("references", {}).items():
    asked = {metric: of for metric, of in reference["metrics"].items() if metric in metrics}
    if asked:
      found[name] = {"words": reference["words"], "metrics": asked}
  return found


def _curves_beside(roc: dict[str, Any], ran: dict[str, Any]) -> dict[str, Any]:
  """The curves of the run's references, where they are over the same pairs."""
  if any(roc[name] != ran.get(name) for name in ("protocol", "negatives", "far")):
    return {}
  return {name: tar for name, tar in ran["tar"].items() if name != "model"}


def _config_of(workdir: pathlib.Path) -> Any:
  import ml_collections
  path = workdir / "config.json"
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file; --workdir must be the folder of a run")
  said = json.loads(path.read_text())
  if "method" in said:
    raise ValueError(f"{path} is of a run of fedjax_face.fit: fedjax_face.load({str(workdir)!r})."
                     "evaluate() judges it")
  return ml_collections.ConfigDict(said)


def _ask(asked: Any, values: flags.FlagValues) -> None:
  """Writes what the flags ask for into the config's `evaluation`."""
  asked.protocols = list(values.protocols or asked.protocols)
  asked.fars = [_number(far) for far in values.fars] or list(asked.fars)
  if values.bootstrap is not None:
    asked.bootstrap = values.bootstrap
  if values.flip:
    asked.flip = False if values.flip == "none" else values.flip


def _refuse_protocols(config: Any, values: flags.FlagValues) -> None:
  for name in ("data", "data_option", "protocols", "fars", "flip"):
    if values[name].value:
      raise ValueError(f"--{name}: algorithm {config.algorithm} trains no embeddings, and is "
                       "evaluated on its own set by its own metrics")
  if values.bootstrap is not None:
    config.evaluation.bootstrap = values.bootstrap


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise ValueError(f"--fars: {text!r} is not a number") from None


def _outcome(config: Any, workdir: pathlib.Path, values: flags.FlagValues) -> tuple[int, Any]:
  import jax

  from fedjax_face.algorithms import registry
  from fedjax_face.training import checkpoint
  from fedjax_face.training.evaluator import Evaluator
  from fedjax_face.training.experiment import load_sources
  from fedjax_face.training.mesh import clients_mesh
  sources = load_sources(config)
  # What the noise was does not matter to the shapes of a state; calibrating it again takes long.
  with config.unlocked():
    if config.privacy.get("epsilon") is not None:
      config.privacy.epsilon, config.hparams.noise_multiplier = None, 1.0
  algorithm = registry.build(config, sources, clients_mesh(jax.devices()[:1]))
  say = lambda line: print(line, file=sys.stderr)
  found = checkpoint.restore(
    workdir / "checkpoints", jax.eval_shape(algorithm.init, jax.random.key(0)), say)
  if found is None:
    raise FileNotFoundError(f"{workdir}/checkpoints: no checkpoint yet")
  chosen = _chosen(config, sources, values)
  evaluator = Evaluator(algorithm, config.evaluation, chosen.evaluation, chosen.pairs, config.seed)
  state = jax.tree.map(jax.numpy.asarray, found.state)
  return found.round, evaluator.outcome(state)


def _own_outcome(config: Any, workdir: pathlib.Path) -> tuple[int, Any]:
  """Of a method that trains no embeddings, on the evaluation set of the run."""
  import jax

  from fedjax_face.training import checkpoint, edge, experiment
  say = lambda line: print(line, file=sys.stderr)
  kept = (workdir / "pretrained").exists()
  built = experiment.build(config, workdir if kept else None, say)
  if (workdir / "devices.json").is_file():
    restored = edge.restored_state(built.algorithm, workdir, say)
  else:
    found = checkpoint.restore(
      workdir / "checkpoints", jax.eval_shape(built.algorithm.init, jax.random.key(0)), say)
    restored = None if found is None else (found.round, found.state)
  if restored is None:
    raise FileNotFoundError(f"{workdir}/checkpoints: no checkpoint yet")
  done, state = restored
  return done, built.evaluator.outcome(jax.tree.map(jax.numpy.asarray, state))


def _chosen(config: Any, sources: Sources, values: flags.FlagValues) -> Sources:
  """The sources with the evaluation set that was asked for, and pairs if a protocol needs them."""
  import numpy as np

  from fedjax_face.data.splits import check_disjoint
  from fedjax_face.evaluation.random_pairs import pairs_from_labels
  from fedjax_face.training.experiment import load_sources
  if values.data:
    options = {"name": values.data} | dict(map(_key_and_value, values.data_option))
    train = sources.train
    if values.data == "lfw":
      other = load_sources(config, {"test_folds": tuple(range(1, 11))} | options)
      sources = sources._replace(evaluation=other.evaluation, pairs=other.pairs)
    else:
      other = load_sources(config, config.data.to_dict() | {"public": options})
      assert other.public is not None
      sources = sources._replace(evaluation=other.public, pairs=None)
    if not check_disjoint(train, sources.evaluation, "person"):
      print("whether this set shares a person with the training set cannot be checked",
            file=sys.stderr)
  elif values.data_option:
    raise ValueError("--data_option needs --data")
  if sources.pairs is None and _NEED_PAIRS & set(config.evaluation.protocols):
    rng = np.random.default_rng(config.seed)
    pairs = pairs_from_labels(sources.evaluation.label, values.pairs, rng)
    sources = sources._replace(pairs=pairs)
  return sources


def _key_and_value(text: str) -> tuple[str, Any]:
  key, equals, value = text.partition("=")
  if not equals:
    raise ValueError(f"--data_option={text}: expected key=value")
  try:
    return key, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return key, {"true": True, "false": False}.get(value.lower(), value)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["evaluate", *arguments]
  return command_line.one_line_errors(
    lambda: _evaluate(_flags(), given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
