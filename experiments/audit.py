r"""Audits what a config promises: claimed epsilon beside what an adversary measures, at least.

python -m experiments.audit --config=configs/dp_fedemb.py:synthetic --workdir=runs/audit

Backbone: canaries through the config's aggregate and sampling of users or silos; model: a canary
unit through the config's clip and noise (DP-SGD); split learning: the messages of a device. The
neighbouring data set lacks the FIRST or the last user or unit, or has it replaced. The population
is small and the noise is set so that the claim is --epsilon: a few thousand trials cannot show a
large epsilon. So this tests sampling, assignment to clients, clipping, noise and accounting of a
run, not the noise level of its config.
Cyclic sampling and correlated noise need --game_rounds of at least
method.clients.sampling.min_separation. Writes audit.json and audit.png.

Clusters of class embeddings (configs with method.exchange): two silos that differ in one person,
through every mechanism that there is, at the same claim. Writes audit_clusters.json and .png.

One run (--one_run): the config itself, with its data and its noise, is trained once with --canaries
canary users (or units), each in the training set by a coin, and the bound is on the epsilon of its
noised sum at privacy.delta. Writes audit_one_run.json and .png; what was trained is thrown away.
On private data it is a further release, which --privacy_budget=FILE counts; guard its files.

Mechanisms that are broken on purpose show whether the game can tell. The exit status is 1 if a real
mechanism reveals more than it claims.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import calls, command_line

_OPTIONS = ("epsilon", "delta", "trials", "cluster_trials", "game_rounds", "one_run", "canaries",
            "workdir")


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  calls.define(values)
  command_line.define_shared(values)
  for name, default, words in (
      ("trials", 4000, "games in each of the two neighbouring populations"),
      ("cluster_trials", 40_000, "publications of each of two neighbouring silos"),
      ("game_rounds", 2, "rounds of a game"),
      ("canaries", 1000, "of --one_run, half of them in the training set")):
    flags.DEFINE_integer(name, default, words, flag_values=values)
  flags.DEFINE_float("delta", 1e-2, "of claim and measurement", flag_values=values)
  flags.DEFINE_float("epsilon", 2.5, "claim, for which the noise is set", flag_values=values)
  flags.DEFINE_boolean("one_run", False, "audit the config's own run, trained once with canaries",
                       flag_values=values)
  command_line.define_budget(values)
  return values


def _audit(values: flags.FlagValues, arguments: Sequence[str]) -> bool:
  """Whether every real mechanism held."""
  calls.parse(values, arguments, __doc__)
  from fedjax_face.attacks import audit_records, method_audit
  from fedjax_face.runs.asked import Asked, from_config
  said = from_config(calls.said(arguments))
  Asked.of_arguments(said)  # refuses a config that lacks a section
  options: dict[str, Any] = {name: values[name].value for name in _OPTIONS}
  records = method_audit.audit(**said, **options, account=command_line.privacy_budget(values))
  for name, record in records.items():
    if "noised_sum_not_audited" in record:
      print(f"the noised sum is not audited: {record['noised_sum_not_audited']}")
    audit_records.show(record)
    print(f"results: {values.workdir}/{name}.json  figure: {values.workdir}/{name}.png")
  return not any(map(audit_records.violated, records.values()))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status: 1 if the real mechanism does not hold."""
  given = sys.argv if arguments is None else ["audit", *arguments]
  held: list[bool] = []
  status = command_line.one_line_errors(
      lambda: held.append(_audit(_flags(), given)), lambda: "--debug" in given)
  return status or int(not all(held))


if __name__ == "__main__":
  sys.exit(main())
