"""What is going wrong in a run, in one line each, from the metrics of its rounds while it runs."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax

from fedjax_face import options
from fedjax_face.method.algorithm import Algorithm, HParams, flattened, part_of
from fedjax_face.models import registry as models
from fedjax_face.privacy import planning

Row = Mapping[str, float]
Window = Sequence[tuple[int, Row]]

ROUNDS_OF_A_TREND = 9     # fewest; a third of them has a median that one odd round does not move
ROUNDS_OF_A_SHORT_TREND = 6  # in a run that has no more
ROUNDS_OF_A_LEVEL = 3
OVERWHELMED = 1 / 3       # see `Watch.before`
HOPELESS = 1 / 50         # see `_hopeless`
CLEARLY_WORSE = 2.0       # a kind of trouble is named again when its severity has grown by this


class NoFiniteUpdate(ValueError):
  """Every client's update was NaN or infinite for rounds on end; `done` rounds are recorded."""

  def __init__(self, first: int, done: int, remedy: str):
    super().__init__(f"no client's update was finite in rounds {first}-{done}, so only noise, if "
                     f"anything, reached the model: {remedy}")
    self.done = done


class Setting(NamedTuple):
  """What the rows of a run do not say.

  Attributes:
    hparams: of the algorithm, by their paths: local.learning_rate.
    rounds: of the whole run.
    margin: what a margin head adds to the loss of an embedding that knows nothing, in nats.
    noise_norm: norm of the noise on the mean over the clip norm; None where there is none.
    independent_noise: the noise of a round has nothing to do with that of the others.
    warm: heads start from what the backbone says of their classes, so that the loss is below chance
      before anything is learned and is compared with that of the first rounds instead.
    first_loss: median of the first `ROUNDS_OF_A_LEVEL` rounds; None before them, or not seen.
  """

  hparams: Mapping[str, float]
  rounds: int
  margin: float = 0.0
  noise_norm: float | None = None
  independent_noise: bool = True
  warm: bool = False
  first_loss: float | None = None

  @property
  def window(self) -> int:
    """Rounds that a trend is read from: a quarter of the run, neither too few nor too many."""
    return min(max(self.rounds // 4, self.trend), 60)

  @property
  def trend(self) -> int:
    """Fewest rounds that show a trend; a short run is judged when it is over."""
    return min(ROUNDS_OF_A_TREND, max(self.rounds, ROUNDS_OF_A_SHORT_TREND))


class Trouble(NamedTuple):
  """One observation: of which kind, how bad (positive, to compare with itself), and the line."""

  kind: str
  severity: float
  line: str


class Watch:
  """Says every kind of trouble once, and again only when it is twice as bad.

  The lines follow from the rows alone; rows that lack a column are not judged by it.

  Args:
    setting: what the rows of the run do not say.

  Attributes:
    lines: all that was said.
  """

  def __init__(self, setting: Setting):
    self.lines: list[str] = []
    self._setting = setting
    self._rows: collections.deque[tuple[int, Row]] = collections.deque(maxlen=setting.window)
    self._said: dict[str, float] = {}
    self._not_finite: list[int] = []

  def before(self) -> list[str]:
    """The line about noise that all rounds together cannot overcome, before the first of them.

    A mean of clipped updates is at most as long as the clip norm, and in practice a fraction of
    it, so sqrt(T) over the ratio bounds from far above what `_hopeless` will see.
    """
    ratio = self._setting.noise_norm
    if ratio is None or math.sqrt(self._setting.rounds) >= OVERWHELMED * ratio:
      return []
    line = planning.noise_norm_warning(ratio)
    return [] if line is None else self._say([Trouble("noise", ratio, line)])

  def after(self, rows: Window) -> list[str]:
    """The new lines after a dispatch; `rows` are its (round, metrics).

    Raises:
      NoFiniteUpdate: no update of this dispatch was finite, and of two rounds on end at least.
    """
    self._rows.extend(rows)
    if self._setting.first_loss is None and self._rows and self._rows[0][0] == 1:
      losses = [row["loss"] for _, row in self._rows if "loss" in row][:ROUNDS_OF_A_LEVEL]
      if len(losses) == ROUNDS_OF_A_LEVEL:
        self._setting = self._setting._replace(first_loss=statistics.median(losses))
    said = self._say(found for check in _CHECKS
                     if (found := check(list(self._rows), self._setting)) is not None)
    taken = [(done, row) for done, row in rows if row.get("clients", 0) > 0]
    diverged = [done for done, row in taken if row.get("clients_not_finite", 0) >= row["clients"]]
    whole = bool(taken) and len(diverged) == len(taken)
    self._not_finite = self._not_finite + diverged if whole else []
    if len(self._not_finite) >= 2:
      never = "" if self._not_finite[0] > 1 else (
          "; or look at the start and at method.backbone: one that gives no finite embedding "
          "does the same")
      raise NoFiniteUpdate(self._not_finite[0], rows[-1][0],
                           _lower(self._setting.hparams, *_local_rates(self._setting)) + never)
    return said

  def _say(self, troubles: Iterable[Trouble]) -> list[str]:
    new = [t for t in troubles if t.severity >= CLEARLY_WORSE * self._said.get(t.kind, 0.0)]
    self._said |= {t.kind: t.severity for t in new}
    lines = [t.line for t in new]
    self.lines += lines
    return lines


def watch(algorithm: Algorithm, rounds: int) -> Watch:
  """The watch over a run of `algorithm` for so many rounds."""
  chosen = {} if algorithm.method is None else options.record(algorithm.method).arguments
  aggregate = chosen.get("aggregate")
  return Watch(Setting(
      hparams=flattened(algorithm.hparams),
      rounds=rounds,
      margin=_margin(chosen.get("head"), part_of(algorithm.hparams, "head")),
      noise_norm=noise_norm(algorithm),
      independent_noise=aggregate is None or options.call(aggregate).get("name") != "correlated",
      warm=chosen.get("start_head") == "local_prototypes"))


def noise_norm(algorithm: Algorithm) -> float | None:
  """`planning.noise_norm_ratio` of a method that noises a mean of updates; None of any other."""
  if algorithm.averages_over is None:
    return None
  params = jax.eval_shape(algorithm.init, jax.random.key(0)).params
  return planning.noise_norm_ratio(
      algorithm.hparams["aggregate"]["noise_multiplier"], algorithm.averages_over,
      models.count_parameters(params))


def _margin(head: Any, own: HParams) -> float:
  """By how much a margin lowers the true class's logit where all cosines are 0; else 0."""
  geometry, unknowing = None if head is None else head.geometry, cast(Any, 0.0)
  return 0.0 if geometry is None else -float(geometry(own).true_class_logit(unknowing))


def _above_chance(window: Window, setting: Setting) -> Trouble | None:
  """The last third of the window is not below ln(classes), nor 2 % below the first third.

  A throw-away head starts every round anew, so the loss that it reaches, not where it began,
  tells; a margin head is compared with what it gives an embedding that knows nothing. A warm head
  is not compared with chance but with the first rounds of the run.
  """
  trained = [(done, row) for done, row in _trend(window, setting) if "chance_loss" in row]
  if not trained or not trained[-1][1]["chance_loss"]:
    return None
  first, last = _thirds(trained, "loss")
  chance = _thirds(trained, "chance_loss")[1] + setting.margin
  if setting.warm and last < chance:
    return _stays(last, trained, setting)
  if last < chance or last < 0.98 * first:
    return None
  rates = _local_rates(setting)
  remedy = (_lower(setting.hparams, *rates) if last > 1.1 * chance else
            f"nothing is learned; {_change(setting.hparams, *rates)}")
  of_what = "ln of the classes" + (" + the head's margin" if setting.margin else "")
  return Trouble("above chance", last, f"loss {last:.3g} is not below chance ({of_what}: "
                 f"{chance:.3g}) in {_span(trained)} and does not fall: {remedy}")


def _stays(last: float, trained: Window, setting: Setting) -> Trouble | None:
  """The loss of warm heads is not 2 % below that of the first rounds of the run."""
  if setting.first_loss is None or last < 0.98 * setting.first_loss:
    return None
  return Trouble("stays", 1.0, f"loss {last:.3g} in {_span(trained)} is no lower than in the first "
                 f"rounds ({setting.first_loss:.3g}): little is learned, if anything; "
                 f"{_change(setting.hparams, *_local_rates(setting))}")


def _rises(window: Window, setting: Setting) -> Trouble | None:
  """The median of the last third is a tenth above that of the first, and beyond the scatter."""
  trained = _trend(window, setting)
  if not trained:
    return None
  first, last = _thirds(trained, "loss")
  scale = max(abs(first), 0.1 * trained[-1][1].get("chance_loss", 0.0))
  size = len(trained) // 3
  scatter = max(_scatter([row["loss"] for _, row in part])
                for part in (trained[:size], trained[-size:]))
  if last - first <= max(0.1 * scale, 2 * scatter):
    return None
  rates = _rates(trained[-1][1], setting)
  noise = "" if setting.noise_norm is None else f", or {_less_noise(trained[-1][1])}"
  return Trouble("rises", abs(last), f"loss rises from {first:.3g} to {last:.3g} in "
                 f"{_span(trained)}: {_lower(setting.hparams, *rates)}{noise}")


def _not_finite(window: Window, setting: Setting) -> Trouble | None:
  """Some client's update was NaN or infinite; a tenth of them is the least severity."""
  taken = [(done, row) for done, row in window if row.get("clients_not_finite") is not None]
  lost = sum(row["clients_not_finite"] for _, row in taken)
  if not lost:
    return None
  total = sum(row["clients"] for _, row in taken)
  return Trouble("not finite", max(lost / total, 0.1),
                 f"{lost:g} of {total:g} updates ({lost / total:.0%}) were not finite in "
                 f"{_span(taken)} and counted as zero: "
                 f"{_lower(setting.hparams, *_local_rates(setting))}")


def _hopeless(window: Window, setting: Setting) -> Trouble | None:
  """The signal of all rounds together is lost in their noise.

  If all T rounds pull the same way, their sum has a signal-to-noise ratio of c = sqrt(T) times
  that of a round, and c^2 / (1 + c^2) of its squared length is signal. Little of it is enough:
  noise is spread evenly over all weights and hardly changes which images are near each other, so
  that runs on rendered faces at c from 0.05 to 0.09, with steps small enough for the weights to
  bear the noise, kept most of the noiseless gain (docs/results/dp_fedemb.md). At 1/50 the noise
  is fifty times as long as the best of signals. Correlated noise cancels between rounds, so it is
  not judged.
  """
  taken = [(done, row) for done, row in window
           if math.isfinite(row.get("signal_to_noise", math.nan)) and _has_trained(row)]
  if len(taken) < min(ROUNDS_OF_A_LEVEL, setting.rounds) or not setting.independent_noise:
    return None
  ratio = statistics.median(row["signal_to_noise"] for _, row in taken)
  together = ratio * math.sqrt(setting.rounds)
  if not 0 < together < HOPELESS:
    return None
  noise = "" if setting.noise_norm is None else (
      f" (the noise on the mean has norm {setting.noise_norm:.3g} times the clip norm)")
  return Trouble("hopeless", 1 / together,
                 f"signal-to-noise ratio {ratio:.2g} in {_span(taken)}{noise}: over all "
                 f"{setting.rounds} rounds at best {together**2 / (1 + together**2):.2g} of what "
                 f"changes the model is signal; {_less_noise(taken[-1][1])}, or train fewer "
                 "parameters")


def _clipping(window: Window, setting: Setting) -> Trouble | None:
  """The clip norm, to which noise is scaled, is far from the norms of the updates.

  Nothing is said of a clip norm that adapts by itself.
  """
  taken = [(done, row) for done, row in window
           if "update_norm" in row and _has_trained(row) and "clip_norm" not in row
           and math.isfinite(row.get("signal_to_noise", math.nan))]
  clip_norm = setting.hparams.get("aggregate.clip_norm", 0.0)
  if len(taken) < min(ROUNDS_OF_A_LEVEL, setting.rounds) or not 0 < clip_norm < math.inf:
    return None
  norm = statistics.median(row["update_norm"] for _, row in taken)
  clipped = statistics.median(row["clipped_fraction"] for _, row in taken)
  if clipped < 0.01 and 0 < norm < clip_norm / 4:
    return Trouble("unclipped", clip_norm / norm,
                   f"updates have norm {norm:.3g} in {_span(taken)}, far below the clip norm "
                   f"{clip_norm:g} that the noise is scaled to: lower "
                   f"method.aggregate.clip_norm to about {2 * norm:.2g}, and raise "
                   "method.server.learning_rate if training slows")
  if clipped > 0.99 and norm > 10 * clip_norm:
    return Trouble("clipped", norm / clip_norm,
                   f"all updates are clipped in {_span(taken)}, from norm {norm:.3g} to "
                   f"{clip_norm:g}, so that only their directions count: raise "
                   "method.aggregate.clip_norm, "
                   f"or {_lower(setting.hparams, *_local_rates(setting)[:1])}")
  return None


def _untrained(window: Window, setting: Setting) -> Trouble | None:
  """Rounds in which nothing was learned although nothing failed: nobody, nothing, or one class."""
  recent = window[-ROUNDS_OF_A_LEVEL:]
  if len(recent) < min(ROUNDS_OF_A_LEVEL, setting.rounds):
    return None
  total = lambda name: sum(row.get(name, math.nan) for _, row in recent)
  said = None
  if total("clients") == 0:
    said = ("no client took part", "raise method.clients.sampling.probability or "
            "method.clients.users_per_client")
  elif total("examples") == 0 and not total("clients_not_finite"):
    said = ("no client trained on an example",
            "look at method.clients.max_examples, method.local.epochs and the images of the "
            "training set")
  elif all(row.get("loss") == 0 for _, row in recent) and not total("clients_not_finite") > 0:
    said = ("loss is exactly 0", "a softmax over one class has no gradient: method.classes=all, or "
            "more method.clients.users_per_client" if total("chance_loss") == 0 else
            "no gradient is left; look at the labels of the training set")
  return None if said is None else Trouble(
      "untrained", 1.0, f"{said[0]} in {_span(recent)}: {said[1]}")


_CHECKS: tuple[Callable[[Window, Setting], Trouble | None], ...] = (
    _above_chance, _rises, _not_finite, _hopeless, _clipping, _untrained)


def _trend(window: Window, setting: Setting) -> Window:
  """The rounds of a full window in which something was trained, if they are enough."""
  trained = [(done, row) for done, row in window if _has_trained(row)]
  enough = len(window) >= setting.window and len(trained) >= setting.trend
  return trained if enough else []


def _has_trained(row: Row) -> bool:
  return (math.isfinite(row.get("loss", math.nan))
          and row.get("examples", row.get("units", 1.0)) > 0)


def _thirds(window: Window, name: str) -> tuple[float, float]:
  """Medians of the first and the last third."""
  values, size = [row[name] for _, row in window], len(window) // 3
  return statistics.median(values[:size]), statistics.median(values[-size:])


def _scatter(values: Sequence[float]) -> float:
  """Median distance from the median."""
  middle = statistics.median(values)
  return statistics.median(abs(value - middle) for value in values)


def _span(window: Window) -> str:
  return f"rounds {window[0][0]}-{window[-1][0]}"


def _rates(row: Row, setting: Setting) -> list[str]:
  """Learning rates that the method of this row reads, the one to lower first in front."""
  if "cosine" in row:
    return [*(["server.learning_rate"] if "clients" in row else []), *_local_rates(setting)]
  names = ("optimizer.of.learning_rate", "server.learning_rate", "device.learning_rate")
  return [name for name in names if name in setting.hparams]


def _local_rates(setting: Setting) -> list[str]:
  """Of the training of an embedding with a head."""
  names = ("local.learning_rate", "local.head_learning_rate_scale")
  return [name for name in names if name in setting.hparams]


def _lower(hparams: Mapping[str, float], *names: str) -> str:
  return f"lower {_named(hparams, names)}"


def _change(hparams: Mapping[str, float], *names: str) -> str:
  return f"try a tenth and ten times of {_named(hparams, names)}"


def _named(hparams: Mapping[str, float], names: Sequence[str]) -> str:
  """The options with their values."""
  return " or ".join(f"method.{name} ({hparams[name]:g})" for name in names) or "the learning rate"


def _less_noise(row: Row) -> str:
  size, noise = ("clients.per_round", "aggregate") if "clients" in row else (
      "units.batch_size", "gradient")
  return (f"raise method.{size}, or have less noise: a larger privacy.epsilon, or a lower "
          f"method.{noise}.noise_multiplier where it is said")
