"""A run: what `fit` returns and `load` finds again."""

from __future__ import annotations

import functools
import math
import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face import options
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.image_source import ImageSource
from fedjax_face.data.sources import Sources
from fedjax_face.privacy import statement
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import (
  checkpoint,
  inputs,
  kept_run,
  references,
  run_statement,
  streams,
  summary,
)
from fedjax_face.runs.evaluator import Outcome, on_one_device
from fedjax_face.runs.evaluators import evaluator_of
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.records import read_json
from fedjax_face.runs.references import Reference
from fedjax_face.runs.rows import columns
from fedjax_face.runs.settings import Evaluation

_BATCH = 256


class Run:
  """A trained model with what was measured and what was revealed.

  Attributes:
    workdir: of the run; None of one that wrote nothing.
    ledger: of everything that it released; of one that has not finished, at most.
    config: what it was asked, as config.json has it.
    rounds: done, as its state has them.
    counted: rounds in the ledger: more than `rounds` where a run was killed that may have released
      others since.
    finished: whether no round follows.
    summary: what summary.json said when it finished; None of a run in memory and of others.
  """

  def __init__(self, made: Experiment, state: Any, ledger: Ledger,
               rows: Sequence[tuple[int, Mapping[str, Any]]],
               workdir: pathlib.Path | None = None,
               read: Callable[[], Experiment] | None = None,
               says: Callable[[], str] | None = None) -> None:
    self._made, self._rows, self._read, self._says = made, list(rows), read, says
    self._state = jax.tree.map(jnp.asarray, on_one_device(state))
    self.ledger, self.workdir, self.config = ledger, workdir, made.record
    self.rounds: int = self._rows[-1][0] if self._rows else 0
    self.counted, self.finished = self.rounds, True
    self.summary: Mapping[str, Any] | None = None

  @classmethod
  def of_memory(cls, made: Experiment, state: Any, ledger: Ledger, rows: Any) -> Run:
    """A run that wrote nothing."""
    return cls(made, state, ledger, rows)

  @classmethod
  def of_folder(cls, workdir: pathlib.Path, made: Experiment,
                read: Callable[[], Experiment] | None = None,
                exact: Callable[[], Experiment] | None = None) -> Run:
    """The run in a folder, as its newest checkpoint has it.

    Args:
      workdir: of the run.
      made: the experiment; with `read` it needs no sources and no evaluator.
      read: () -> the experiment with its data, which are read when they are first needed.
      exact: () -> the experiment with its own noise, where `made` has some in its place.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: one of another run.
    """
    if read is None:
      inputs.require_same(made.sources, workdir)
    kept, made = kept_run.found(workdir, made, exact or (lambda: made))
    run = cls(made, kept.found.state, kept.ledger, kept.rows, workdir, read,
              lambda: statement.privacy_markdown(kept_run.privacy(kept, made)))
    run.rounds, run.counted, run.finished = kept.found.round, kept.counted, kept.found.finished
    run.summary = None if kept.said is None else kept.said.summary
    return run

  @functools.cached_property
  def _whole(self) -> Experiment:
    """With its data."""
    if self._read is None:
      return self._made
    with streams.pinned():
      return self._read()

  @property
  def method(self) -> str:
    """Name of what was trained."""
    return self._made.algorithm.name

  @property
  def embeds(self) -> bool:
    """Whether it embeds images."""
    return self._made.algorithm.embed is not None

  @property
  def sources(self) -> Any:
    """The sets of the run; of one that was loaded they are read now, and must be those.

    Raises:
      FileNotFoundError: they are gone.
      ValueError: they are others, or were made by hand and are not given.
    """
    return self._whole.sources

  @property
  def facts(self) -> Any:
    """The training set without its pixels: who is in it."""
    return self._made.algorithm.facts

  @property
  def _image_shape(self) -> tuple[int, ...]:
    return tuple(self.facts.images.shape[1:])

  @property
  def asked(self) -> Mapping[str, Any]:
    """How the run is judged, by name."""
    return dict(self._made.config.evaluation)

  @property
  def metrics(self) -> dict[str, np.ndarray]:
    """Columns over the rounds, [rounds + 1] with the start first; NaN where one has no value.

    `pandas.DataFrame(run.metrics)` is a table of it.
    """
    return columns(self._rows)

  def embed(self, images: Any) -> np.ndarray:
    """Unit embeddings float32 [N, D] of images uint8 [N, H, W, C] of the training set's size.

    Raises:
      ValueError: images of another shape or type, or a method that trains no embeddings.
    """
    self._require_embeddings()
    assert self._made.algorithm.embed is not None
    blocks = self._blocks(self._made.algorithm.embed, images)
    return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)

  def predict(self, images: Any) -> Any:
    """What the network says of images uint8 [N, H, W, C] of the training set's size.

    Returns:
      A pytree of arrays [N, ...]: `TaskOutputs` of face tasks.

    Raises:
      ValueError: images of another shape or type, none of them, or a method of embeddings or of
        split learning.
    """
    if self._made.algorithm.predict is None:
      raise ValueError(f"{self._made.algorithm.name} predicts nothing by itself: a method of "
                       "embeddings has `embed`, split learning `evaluate`")
    blocks = self._blocks(self._made.algorithm.predict, images)
    if not blocks:
      raise ValueError("images: expected at least one")
    return jax.tree.map(lambda *parts: np.concatenate(parts), *blocks)

  @streams.pinned()
  def _blocks(self, function: Callable[[Any, Any], Any], images: Any) -> list[Any]:
    images = images if isinstance(images, ImageSource) else np.asarray(images)
    expected = self._image_shape
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
      raise ValueError(f"images are {images.dtype} {list(images.shape)}; expected uint8 "
                       f"[N, {', '.join(map(str, expected))}]")
    run = jax.jit(function)
    return [jax.tree.map(np.asarray, run(self._state, images[i:i + _BATCH]))
            for i in range(0, len(images), _BATCH)]

  def evaluate(self, protocols: Any = None, data: Any = None,
               pairs: Any = None, templates: Any = None) -> dict[str, Any]:
    """Metrics with 95 % intervals: name -> `Metric` with `value`, `low`, `high`.

    Args:
      protocols: names of `evaluation.protocols`, or how the run is judged, as
        `fedjax_face.protocols(...)`; None: as the run was.
      data: a FaceDataset of other people; None: those of the run.
      pairs: rows of `data`, for protocols that need some.
      templates: the `TemplateLists` of `data`, for the protocol templates.

    Raises:
      ValueError: an unknown protocol, or one that needs pairs without any; images of another shape.
      FileNotFoundError: the run's own people are asked for and their images are gone.
    """
    asked = options.made(protocols)
    if isinstance(asked, Evaluation):
      if asked.feeds != options.made(self._made.algorithm.method).data:
        raise ValueError(f"protocols: {self.method} is not judged so: expected names of protocols, "
                         "or fedjax_face.protocols(...)")
      return self.outcome(asked.section(), data, pairs, templates).metrics
    names = (asked,) if isinstance(asked, str) else asked
    return self.outcome({} if names is None else {"protocols": tuple(names)}, data, pairs,
                        templates).metrics

  @streams.pinned()
  def outcome(self, changed: Mapping[str, Any] = types.MappingProxyType({}), data: Any = None,
              pairs: Any = None, templates: Any = None) -> Outcome:
    """Metrics and the ROC curve.

    Args:
      changed: of how the run is judged: protocols, fars, bootstrap, flip, ...
      data, pairs, templates: as of `evaluate`.

    Raises:
      ValueError: as `evaluate`, or other people or protocols for a run that embeds nothing.
    """
    return self._evaluator(changed, data, pairs, templates).outcome(self._state)

  @streams.pinned()
  def compared(self, changed: Mapping[str, Any] = types.MappingProxyType({}), data: Any = None,
               pairs: Any = None, templates: Any = None) -> dict[str, Reference]:
    """What the run is compared with on other people, as `references.references`.

    Args:
      changed, data, pairs, templates: as of `outcome`.

    Raises:
      ValueError: as `outcome`.
    """
    return references.references(self._made, self._evaluator(changed, data, pairs, templates))

  def _evaluator(self, changed: Mapping[str, Any], data: Any, pairs: Any, templates: Any) -> Any:
    made, asked = self._made, {**self._made.config.evaluation, **changed}
    if data is not None or "protocols" in changed:
      self._require_embeddings()
    if data is not None and not isinstance(data, FaceDataset):
      raise ValueError(f"data is {type(data).__name__}; expected a FaceDataset: "
                       "fedjax_face.faces(images, person)")
    expected = self._image_shape
    if data is not None and tuple(data.images.shape[1:]) != expected:
      raise ValueError(f"data: images are {list(data.images.shape[1:])}; expected "
                       f"{list(expected)}, as those of the training set")
    sources = self.sources if data is None else Sources(
        self.facts, data, pairs=pairs, templates=templates)
    judged = Evaluation(options.made(made.algorithm.method).data, 0, 0, 0, (), asked)
    return evaluator_of(judged, made.algorithm, sources, made.config.seed)

  def _require_embeddings(self) -> None:
    if self._made.algorithm.embed is None:
      raise ValueError(f"{self._made.algorithm.name} trains no embeddings: it is judged on its own "
                       "people by its own metrics, and `predict` says what its network says")

  @property
  def epsilon(self) -> float:
    """Of each person over all channels, at the delta of the budget; infinite without a guarantee.

    The privacy unit and the adjacency are in `statement`.
    """
    privacy = self._made.config.privacy
    if privacy.noise_seed is not None:
      return math.inf  # anybody can draw the noise again
    if privacy.unit not in self.ledger.units:
      return math.inf if self.rounds else 0.0  # before the first round nothing is released
    best = self.ledger.epsilon(privacy.delta, privacy.unit).best
    return math.inf if best is None else best

  @property
  def statement(self) -> str:
    """The privacy statement, Markdown, as the newest checkpoint has it, whatever PRIVACY.md says.

    Of a run that has not finished it is made now, and says so.

    Raises:
      ValueError, FileNotFoundError: what it says of the data of such a run is gone or damaged.
    """
    if self._says is not None:
      return self._says()
    return statement.privacy_markdown(run_statement.statement_of(self._made, self.ledger))

  def figures(self) -> dict[str, Any]:
    """name -> matplotlib figure: the course of training, and ROC and DET curves where a protocol
    gives them, beside what the run is compared with.
    """
    from fedjax_face.runs import figures as run_figures
    headline = self._made.config.evaluation.headline
    if self.summary is not None:
      return run_figures.drawn(self.metrics, self.summary, headline)
    outcome = self.outcome()
    return run_figures.drawn(self.metrics, {
        "algorithm": self._made.algorithm.name, "metrics": summary.metrics_json(outcome),
        "references": {name: {"words": words, "metrics": summary.metrics_json(of)}
                       for name, (words, of) in self._compared.items()},
        "roc": summary.roc_json(outcome, self._compared)}, headline)

  @functools.cached_property
  def _compared(self) -> dict[str, Reference]:
    with streams.pinned():
      return references.references(self._whole)

  @property
  def references(self) -> dict[str, dict[str, Any]]:
    """What the run is compared with, on the same people: words -> metrics, as of `evaluate`.

    Its start, the backbone as it is initialised, and raw pixels.
    """
    return {words: of.metrics for words, of in self._compared.values()}

  def __repr__(self) -> str:
    where = "in memory" if self.workdir is None else f"in {self.workdir}"
    done = f"{self.rounds} rounds" if self.finished else (
        f"{self.rounds} rounds and not finished, {self.counted} counted as released")
    return (f"<run of {self._made.algorithm.name}, {done}, epsilon "
            f"{self.epsilon:.3g} for each {self._made.config.privacy.unit}, {where}>")


def recorded(workdir: str | os.PathLike) -> dict[str, Any]:
  """config.json of a folder.

  Raises:
    FileNotFoundError: there is none.
    ValueError: of a run of another program.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.exists():
    raise FileNotFoundError(f"{path}: no run is kept there" if not checkpoint.exist(
        path.parent / "checkpoints") else f"{path} is gone: put it back, or start the run again, "
        "which writes it")
  return read_json(path, "method", "data", "rounds")
