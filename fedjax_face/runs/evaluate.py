"""Evaluation of a run that a folder holds, on its own people or on others."""

from __future__ import annotations

import inspect
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_face import options
from fedjax_face.data.dataset import FaceDataset, compact
from fedjax_face.data.judging_sets import JudgingSet
from fedjax_face.data.pairs import Pairs
from fedjax_face.data.sets import Data, PublicSet
from fedjax_face.data.sources import whole_set
from fedjax_face.data.splits import check_disjoint
from fedjax_face.evaluation import requirements
from fedjax_face.evaluation.random_pairs import pairs_from_labels
from fedjax_face.evaluation.requirements import NEED_PAIRS
from fedjax_face.runs import summary
from fedjax_face.runs.figures import save_roc
from fedjax_face.runs.load import load
from fedjax_face.runs.records import write_json
from fedjax_face.runs.references import Reference
from fedjax_face.runs.run import Run
from fedjax_face.runs.settings import protocols

_FOLDS = 10


def evaluate(workdir: str | os.PathLike, changed: Mapping[str, Any], *,
             data: Mapping[str, str] | None = None, pairs: int = 6000, beside: bool = True,
             out: str | os.PathLike | None = None) -> dict[str, Any]:
  """Judges the newest checkpoint of a run.

  Args:
    workdir: of the run.
    changed: of how it is judged: protocols, fars, bootstrap, flip; of a run that embeds nothing
      bootstrap alone.
    data: another set: `name` of a public set, or of one of `data.judging_sets`, and its options,
      numbers as text; what is not said of size and channels is that of the run; None: the run's
      own evaluation set.
    pairs: drawn for protocols that need some, where the set has no official ones; of a small set
      as many as there are.
    beside: on another set, also what the run is compared with: its start, the backbone as it is
      initialised, raw pixels.
    out: folder for evaluation.json, roc.png and det.png; None: nothing is written.

  Returns:
    evaluation.json: `run`, `rounds`, `data`, `metrics`, `references`, `roc`.

  Raises:
    ValueError: a set that shares a person with the training set, or what cannot be judged so.
    FileNotFoundError: no run, or no checkpoint yet.
  """
  workdir = pathlib.Path(workdir)
  run = load(workdir)
  if not run.embeds and (data is not None or set(changed) - {"bootstrap"}):
    name = min(set(changed) - {"bootstrap"}, default="data")
    raise ValueError(f"{name}: {run.method} trains no embeddings, and is evaluated on its own set "
                     "by its own metrics")
  _require_known(changed, pairs)
  chosen, drawn, lists, default = _chosen(run, data, changed.get("protocols"))
  changed = {**({"protocols": default} if default else {}), **changed}
  names = changed.get("protocols", run.asked.get("protocols", ()))
  if run.embeds and drawn is None and lists is None and NEED_PAIRS & set(names):
    labels = (run.sources.evaluation if chosen is None else chosen).label
    drawn = _pairs(labels, pairs, np.random.default_rng(run.config["seed"]))
  if chosen is None and drawn is not None:
    chosen = run.sources.evaluation
  if run.embeds and lists is None and (chosen is not None or changed):
    label = (run.sources.evaluation if chosen is None else chosen).label
    requirements.require(names, label, drawn)
    requirements.require_measurable(changed.get("fars", ()), names, label, drawn)
  outcome = run.outcome(changed, chosen, drawn, lists)
  compared = run.compared(changed, chosen, drawn, lists) if beside and data is not None else {}
  found = _record(run, workdir, outcome, data, compared,
                  own=data is None and "flip" not in changed)
  if out is not None:
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    write_json(pathlib.Path(out) / "evaluation.json", found)
    save_roc(found["roc"], {"model": f"round {found['rounds']}"} | {
        name: of["words"] for name, of in found["references"].items()}, pathlib.Path(out))
  return found


def _require_known(changed: Mapping[str, Any], pairs: int) -> None:
  """Refuses what no protocol takes, in the words of the factory `protocols`."""
  if pairs < 1:
    raise ValueError(f"pairs={pairs}: expected a whole number, at least 1")
  takes = {"protocols": "names", "fars": "fars", "bootstrap": "bootstrap"}
  protocols(**{takes[name]: value for name, value in changed.items() if name in takes})


def _pairs(labels: np.ndarray, most: int, rng: np.random.Generator) -> Pairs:
  """Random pairs in folds of at least two people each.

  Raises:
    ValueError: too few people for a pair of either kind.
  """
  people = len(np.unique(labels))
  try:
    return pairs_from_labels(
        labels, most, rng, folds=max(min(_FOLDS, people // 2), 1), or_fewer=True)
  except ValueError as error:
    raise ValueError(f"pairs={most}: {error}; {people} people with {len(labels)} images evaluate"
                     ) from None


class _Chosen(NamedTuple):
  """What judges: a set, or None for the run's own; its pairs and lists; protocols of its own."""

  dataset: FaceDataset | None
  pairs: Any = None
  templates: Any = None
  protocols: tuple[str, ...] = ()


def _chosen(run: Run, section: Mapping[str, str] | None, asked: Any) -> _Chosen:
  """The set that was asked for, with what it brings.

  Raises:
    ValueError: a set that shares a person with the training set, or a protocol that its lists do
      not serve.
  """
  if section is None:
    return _Chosen(None, run.sources.pairs if run.embeds else None)
  if section["name"] == "lfw":
    return _official_lfw(run, section)
  if section["name"] in _known(JudgingSet).names():
    return _judging(run, section, asked)
  found, notes = whole_set("data", dict(_part(run, PublicSet, section).section))
  _say(notes)
  _require_others(run, found)
  return _Chosen(compact(found))


def _part(run: Run, kind: type, section: Mapping[str, str], **own: Any) -> Any:
  """The part that a section says, with size and channels of the run where it says none."""
  name = section["name"]
  known = _known(kind)
  height, _, channels = run.facts.images.shape[1:]
  takes = (inspect.signature(known.find(name, "data").function).parameters
           if name in known.names() else {})
  like_the_run = {"size": height, "grayscale": channels == 1}
  said = {key: value for key, value in like_the_run.items() if key in takes}
  flags = [f"--config.data.{key}={value}" for key, value in section.items() if key != "name"]
  whole = options.override({"data": {"name": name, **said, **own}}, {"data": kind}, flags).config
  return options.made(options.build(kind, whole["data"], "data"))


def _known(kind: type) -> Any:
  found = options.kind_of(kind)
  assert found is not None
  return found


def _judging(run: Run, section: Mapping[str, str], asked: Any) -> _Chosen:
  """A set that brings its pairs or templates, and can be asked for nothing else."""
  part = _part(run, JudgingSet, section)
  for name in asked or ():
    if name not in part.protocols:
      raise ValueError(f"protocols={name}: data={section['name']} has lists for "
                       f"{', '.join(part.protocols)} alone")
  dataset, pairs, lists, notes = part.load()
  _say(notes)
  _require_others(run, dataset)
  return _Chosen(dataset, pairs, lists, part.protocols[:part.default])


def _say(notes: Iterable[str]) -> None:
  for note in notes:
    print(note, file=sys.stderr)


def _require_others(run: Run, found: FaceDataset) -> None:
  """Refuses people who train; says so where that cannot be told."""
  if not check_disjoint(run.facts, found, "person"):
    print("whether this set shares a person with the training set cannot be checked",
          file=sys.stderr)


def _official_lfw(run: Run, section: Mapping[str, str]) -> _Chosen:
  """Whoever is in the View-2 pairs of LFW, all folds unless some are named."""
  other = _part(run, Data, section, test_folds=tuple(range(1, 11))).sources
  _require_others(run, other.evaluation)
  return _Chosen(other.evaluation, other.pairs)


def _record(run: Run, workdir: pathlib.Path, outcome: Any, data: Mapping[str, str] | None,
            compared: Mapping[str, Reference], own: bool) -> dict[str, Any]:
  """evaluation.json; what the run is compared with stands beside, on its own set from its summary.
  """
  metrics, roc = summary.metrics_json(outcome), summary.roc_json(outcome, compared)
  ran = run.summary if own and run.summary is not None else {}
  beside = {name: {"words": words, "metrics": summary.metrics_json(of)}
            for name, (words, of) in compared.items()}
  for name, reference in ran.get("references", {}).items():
    asked = {metric: of for metric, of in reference["metrics"].items() if metric in metrics}
    if asked:
      beside[name] = {"words": reference["words"], "metrics": asked}
  if roc and ran.get("roc"):
    roc["tar"] |= _curves_beside(roc, ran["roc"])
  return {"run": str(workdir), "rounds": run.rounds,
          "data": data["name"] if data else "evaluation set of the run", "metrics": metrics,
          "references": beside, "roc": roc}


def _curves_beside(roc: Mapping[str, Any], ran: Mapping[str, Any]) -> dict[str, Any]:
  """The curves of the run's references, where they are over the same pairs."""
  if any(roc[name] != ran.get(name) for name in ("protocol", "negatives", "far")):
    return {}
  return {name: tar for name, tar in ran["tar"].items() if name != "model"}
