"""From the `exchange` section of a config to the clusters that silos publish."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.prototypes import of_public_backbone, prototypes, public_people
from fedjax_face.algorithms.silos import Table
from fedjax_face.federated import exchange
from fedjax_face.federated.exchange import ONCE, Exchange, Rows
from fedjax_face.federated.memory import Ending
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.privacy import calibration, clustering, public_directions
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clustering import ClusterMechanism
from fedjax_face.privacy.ledger import events_used

NOT_COVERED = (
    "The guarantee of the clusters is conditional on the backbone: what its exchange reveals is a "
    "channel of its own, with its own guarantee or none.",
    "The choice of the public set, of the number of clusters and of the loss is not accounted for.",
)
_TRAINED_TOGETHER = (
    "a silo's class embeddings are trained together, so one person more or less moves all of them "
    "(exchange.rows=class_embeddings)")
_PUBLIC = 0x7075626C  # keeps the choice of public points apart from other uses of the same seed


def cluster_exchange(given: Ingredients, table: Table) -> Exchange:
  """Publication of clusters as the config's `exchange` section describes it.

  Args:
    given: config with a section `exchange`, training set, public set and public backbone.
    table: of the silos' class embeddings.

  Raises:
    ValueError: a value that is not accepted; points that should be public, but are not; more
      clusters than people; both or neither of an epsilon and a noise multiplier.
  """
  config = given.config
  options = config.get("exchange")
  if not options:
    raise ValueError(f"algorithm={config.algorithm} needs an exchange section")
  if not given.train.persons_are_labels:
    raise ValueError("exchange: a cluster stands for people, so every person needs one class")
  every = _rounds_between(config)
  _check(options, config.hparams, table.places.real.shape[1])
  mechanism = _mechanism(given, table)
  if options.rows == "class_embeddings":
    mechanism = mechanism._replace(
        event=lambda noise_multiplier: dp_accounting.NonPrivateDpEvent(), adds_noise=False,
        words=f"{mechanism.words}; no guarantee: {_TRAINED_TOGETHER}")
  return exchange.cluster_exchange(
      mechanism, jnp.asarray(table.places.real), table.places.dim,
      rows=_rows(given, table), every=every, rounds=config.rounds,
      noise_multiplier=_noise_multiplier(given, mechanism, every),
      needs_all_images=options.rows == "prototypes" and options.every > 0)


def _check(options: Any, hparams: Any, largest: int) -> None:
  """Raises ValueError for a value out of range; `largest` people are in the largest silo."""
  whole = lambda value, low, high: (
      isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)
  for name, most, of in (("clusters", largest, " (people of the largest silo)"),
                         ("iterations", 1000, ""), ("candidates", 1 << 20, "")):
    if not whole(options[name], 1, most):
      raise ValueError(f"exchange.{name}={options[name]!r}: expected 1 to {most}{of}")
  for name in ("projection", "public_iterations"):
    if not whole(options[name], 0, 1 << 20):
      raise ValueError(f"exchange.{name}={options[name]!r}: expected a whole number, at least 0")
  if not 0 < options.angle <= math.pi / 2:
    raise ValueError(f"exchange.angle={options.angle}: expected an angle in (0, pi/2]")
  if not -1 <= hparams.anchor_cosine <= 1:
    raise ValueError(f"hparams.anchor_cosine={hparams.anchor_cosine}: expected a cosine")
  without_counts = options.mechanism == "dplc_published" or (
      options.count_weight == 0 and options.mechanism not in ("kmeans", "all_rows"))
  if options.loss == "v3" and without_counts:
    raise ValueError("exchange.loss=v3 weighs clusters by their numbers of people, which "
                     f"exchange.mechanism={options.mechanism} with exchange.count_weight="
                     f"{options.count_weight} does not publish; expected v0, v1 or v2")


def _rounds_between(config: Any) -> int:
  every = config.exchange.every
  if not isinstance(every, int) or isinstance(every, bool) or every < 0:
    raise ValueError(f"exchange.every={every!r}: expected a number of rounds, or 0 for one "
                     "publication from the public backbone")
  return every or ONCE


def _noise_multiplier(given: Ingredients, mechanism: ClusterMechanism, every: int) -> float:
  """`hparams.cluster_noise_multiplier`, or what `exchange.epsilon` asks for over the whole run."""
  config = given.config
  epsilon, multiplier = config.exchange.epsilon, config.hparams.cluster_noise_multiplier
  if not mechanism.adds_noise:
    asked = {"hparams.cluster_noise_multiplier": multiplier}
    if config.exchange.mechanism != "dplc_published":
      asked["exchange.epsilon"] = epsilon
    for name, value in asked.items():
      if value is not None:
        raise ValueError(
            f"{name}={value} cannot be had with exchange.mechanism={config.exchange.mechanism}, "
            f"exchange.rows={config.exchange.rows}: set --config.{name}=None")
    return 0.0
  calibration.require_exactly_one({
      "exchange.epsilon": epsilon, "hparams.cluster_noise_multiplier": multiplier})
  if epsilon is None:
    if not 0 < multiplier < math.inf:
      raise ValueError(f"hparams.cluster_noise_multiplier={multiplier}: expected a number above 0")
    return float(multiplier)
  if not epsilon > 0:
    raise ValueError(f"exchange.epsilon={epsilon}: expected a number above 0")
  publications = events_used(config.rounds, every)
  event = lambda noise: dp_accounting.SelfComposedDpEvent(mechanism.event(noise), publications)
  return calibration.calibrate_noise(event, epsilon, config.privacy.delta,
                                     Adjacency.ADD_OR_REMOVE_ONE, progress=given.progress,
                                     name="exchange.epsilon")


def _mechanism(given: Ingredients, table: Table) -> ClusterMechanism:
  """`exchange.mechanism`, with anchors and candidates from public people where it needs some."""
  options = given.config.exchange
  if options.pooled and options.mechanism not in ("client_mean", "anchor_table", "dp_lloyd"):
    raise ValueError(f"exchange.pooled: {options.mechanism} is not a sum over people, so silos "
                     "cannot add theirs up; expected client_mean, anchor_table or dp_lloyd")
  if not options.projection:
    return _in_dimensions(given, lambda: _of_public_people(given, table))
  people = _of_public_people(given, table)
  basis = public_directions.principal_directions(people, options.projection)
  inside = np.asarray(l2_normalise(jnp.asarray(people @ basis)))
  return clustering.projected(_in_dimensions(given, lambda: inside), basis)


def _in_dimensions(given: Ingredients, people: Callable[[], np.ndarray]) -> ClusterMechanism:
  options = given.config.exchange
  sums = {"count_weight": options.count_weight, "significance": options.significance}

  def public_centres(number: int) -> np.ndarray:
    rng = np.random.default_rng([given.config.seed, _PUBLIC])
    return public_directions.spherical_kmeans(people(), number, rng, options.public_iterations)

  makers: dict[str, Callable[[], ClusterMechanism]] = {
      "client_mean": lambda: clustering.client_mean(**sums, pooled=options.pooled),
      "anchor_table": lambda: clustering.anchor_table(
          public_centres(options.clusters), **sums, pooled=options.pooled),
      "dp_lloyd": lambda: clustering.dp_lloyd(
          public_centres(options.clusters), iterations=options.iterations, **sums,
          pooled=options.pooled),
      "exponential_caps": lambda: clustering.exponential_caps(
          public_centres(options.candidates), clusters=options.clusters, angle=options.angle,
          selection_share=options.selection_share, **sums),
      "dplc_published": lambda: _published(given),
      "kmeans": lambda: clustering.kmeans(
          public_centres(options.clusters), iterations=options.iterations),
      "all_rows": clustering.all_rows,
  }
  if options.mechanism not in makers:
    raise ValueError(f"exchange.mechanism {options.mechanism!r} is not one of "
                     f"{', '.join(sorted(makers))}")
  return makers[options.mechanism]()


def _published(given: Ingredients) -> ClusterMechanism:
  """Claims epsilon and delta for one cluster of one publication; basic composition adds them up."""
  options = given.config.exchange
  if options.epsilon is None or not options.epsilon > 0:
    raise ValueError(f"exchange.epsilon={options.epsilon}: dplc_published sets its noise by the "
                     "epsilon that it claims; expected a number above 0")
  times = options.clusters * events_used(given.config.rounds, _rounds_between(given.config))
  return clustering.dplc_published(
      clusters=options.clusters, angle=options.angle, smallest=options.smallest,
      epsilon=options.epsilon / times, delta=given.config.privacy.delta / times)


def _of_public_people(given: Ingredients, table: Table) -> np.ndarray:
  """Prototypes [P, D] of the public people under the public backbone."""
  public = public_people(given)
  return np.asarray(of_public_backbone(
      given, table.embed, public.images, public.label, public.num_labels))


def _rows(given: Ingredients, table: Table) -> Rows:
  """What the config's `exchange.rows` and `exchange.every` say is clustered."""
  kind, once = given.config.exchange.rows, given.config.exchange.every == 0
  if kind == "class_embeddings":
    if once:
      raise ValueError("exchange.rows=class_embeddings with exchange.every=0: class embeddings are "
                       "untrained when the public backbone publishes; set exchange.every")
    return lambda class_embeddings, ending: l2_normalise(class_embeddings)
  if kind != "prototypes":
    raise ValueError(f"exchange.rows {kind!r} is not one of class_embeddings, prototypes")
  row, size = table.row_of_label[given.train.label], len(table.places.owner)
  frozen = of_public_backbone(given, table.embed, given.train.images, row, size)
  if once:
    return lambda class_embeddings, ending: _by_silo(frozen, table)
  of_people = prototypes(table.embed, public_people(given).images, size)

  def rows(class_embeddings, ending: Ending):
    return _by_silo(of_people(ending.params["backbone"], ending.images, jnp.asarray(row)), table)

  return rows


def _by_silo(means: jax.Array, table: Table) -> jax.Array:
  return means.at[jnp.asarray(table.places.rows)].get(mode="fill", fill_value=0)
