"""The games of all mechanisms that publish clusters, each at one claim, as one record."""

from __future__ import annotations

import functools
from typing import Any

from fedjax_face.attacks import cluster_audit
from fedjax_face.attacks.game import CONFIDENCE, Played, row

CLAIM_OF_DPLC = ("DPLC as published claims what its own formula says for each cluster, added up "
                 "over clusters; the ledger of a run promises nothing for it.")


def cluster_record(epsilon: float, delta: float, trials: int, seed: int) -> dict[str, Any]:
  """audit_clusters.json: every way to publish clusters, each at a claim of `epsilon`.

  The mechanisms are those of a run on data sets of few rows; then follow published DPLC, and the
  others with half the noise that they claim.

  Args:
    epsilon, delta: of the claim.
    trials: publications of each of two neighbouring silos.
    seed: of the noise.
  """
  real, published, halved = [], [], []
  for index, game in enumerate(cluster_audit.games(epsilon, delta)):
    play = functools.partial(cluster_audit.play, trials=trials, delta=delta,
                             confidence=CONFIDENCE, seed=seed + 2 * index)
    people = int(game.present[0].sum())
    noise = cluster_audit.noise_for(game, epsilon, delta)
    claimed = cluster_audit.claimed_epsilon(game, noise, delta)
    result = play(game, noise, claimed)
    if not game.mechanism.adds_noise:
      published.append(Played(game.name, True, people, result))
      continue
    real.append(Played(game.name, False, people, result))
    halved.append(Played(f"half the noise: {game.name}", True, people,
                         play(game, noise / 2, claimed)))
  adjacency = cluster_audit.ADJACENCY
  largest = cluster_audit.largest_measurable(trials, delta, CONFIDENCE)
  return {
      "channel": "clusters", "unit": cluster_audit.UNIT, "adjacency": adjacency.value,
      "adjacency_in_words": adjacency.words(cluster_audit.UNIT), "delta": delta,
      "confidence": CONFIDENCE, "publications": 1, "trials": trials,
      "largest_measurable_epsilon": largest,
      "note": f"{CLAIM_OF_DPLC} The most that so many trials can show is {largest:.3f}.",
      "games": [row(played) for played in (*real, *published, *halved)],
  }
