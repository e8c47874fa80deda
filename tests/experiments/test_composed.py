"""The composed config end to end: one run, one ledger, one statement over all channels."""

import json

from configs import composed
from experiments import train


def test_a_composed_run_ends_with_one_epsilon_over_all_its_channels(tmp_path):
  tiny = {
      "rounds": 2, "start.rounds": 1, "start.method.steps": 1, "start.method.local.batch_size": 4,
      "method.clients.partition.num_silos": 2, "data.people": 6, "data.evaluation": 4,
      "data.images_per_person": 2, "data.public": 6, "data.public_images_per_person": 2,
      "method.local.batch_size": 4, "method.exchange.mechanism.clusters": 2,
      "evaluation.bootstrap": 10, "evaluation.every": 0, "method.backbone.embedding_dim": 8}
  flags = [f"--config.{name}={value}" for name, value in tiny.items()]
  workdir = tmp_path / "run"
  assert train.main([f"--config={composed.__file__}", f"--workdir={workdir}", *flags]) == 0
  privacy = json.loads((workdir / "privacy.json").read_text())
  (unit,) = privacy["units"]
  assert (unit["unit"], unit["adjacency"]) == ("person", "add_or_remove_one")
  assert 7.5 < unit["epsilon"]["best"] <= 8.0
  entries = privacy["ledger"]["entries"]
  assert {e["release"]["channel"]: e["times"] for e in entries} == {"backbone": 2, "clusters": 2}
  said = (workdir / "PRIVACY.md").read_text()
  for words in ("backbone", "clusters", "trusted", "conditional on the backbone",
                "numbers of images", "class embeddings of every silo", "world4"):
    assert words in said, words
  assert "infinite" not in said
  summary = json.loads((workdir / "summary.json").read_text())
  assert summary["status"] == "finished"
