"""What a program leaves in its folder, for the statement: which files to publish, guard, delete."""

from __future__ import annotations

from typing import NamedTuple


class File(NamedTuple):
  """A pattern of names in a workdir, what to do with it (publish, guard or delete), and why."""

  pattern: str
  handling: str
  why: str


_STATEMENT = File("PRIVACY.md, privacy.json", "publish", "this statement")
_CONFIG = File("config.json", "publish", "the config; guard it where it pins privacy.noise_seed, "
               "from which the noise follows")
_CHECKPOINTS = File(
    "checkpoints", "guard", "the trained model is in them and in no other file. What a channel "
    "above releases with a finite epsilon may be taken out and published (the parameters, "
    "\"params\"); what stands beside it must not leave: class embeddings and control variates of "
    "silos, and until the run has finished the noise of earlier rounds")
_METRICS = "metrics measured on private data without noise"
_SECRETS = File(
    "secrets", "delete", "roots of noise and participation of a run that has not finished; guard "
    "them until it has, when it deletes them itself. Delete copies and backups too")
_KEY = File(
    "training_set.key", "guard", "key of the digest of the training set above: who has it and "
    "everybody else's data can tell who is in. Its owner needs it to compute the digest anew")
_BUDGET = (
    File("privacy_budget.json", "guard", "which entry of the privacy budget is this run's"),
    File("the file of --privacy_budget, that file's .lock", "guard", "outside this folder; digests "
         "of the data without a key, and what later runs are counted by (the lock is empty)"),
)
_CURVES = "figures/roc.png, figures/det.png"


def of_run(*, evaluates_training_people: bool, finished: bool = True, pretrained: bool = False,
           budget: bool = False, silos: bool = False, wandb: bool = False) -> tuple[File, ...]:
  """The files of a training run.

  Args:
    evaluates_training_people: whether evaluation images are, or may be, of people who train.
    finished: whether its secrets are gone.
    pretrained: whether it keeps a public start.
    budget: whether it is entered in a privacy budget.
    silos: whether it compares class embeddings of silos (`figures/overlap.png`).
    wandb: whether metrics go to Weights & Biases as well.
  """
  figures = "figures/training.png" + (", figures/overlap.png" if silos else "")
  whom = ("images of people who train or may do so" if evaluates_training_people else
          "the evaluation people, whom nothing protects: publish them where these people agree")
  return (
      _STATEMENT, _CONFIG, _CHECKPOINTS,
      File("metrics.csv, events.out.tfevents.*" + (", wandb*" if wandb else ""), "guard", _METRICS
           + ("; Weights & Biases holds them already" if wandb else "")),
      File(f"summary.json, {figures}", "guard", "drawn from such metrics"
           + (" and from class embeddings" if silos else "")),
      File(_CURVES, "guard", f"results, without noise, on {whom}"),
      *((File("pretrained", "guard", "trained on the public set alone: as public as that set is"),)
        if pretrained else ()),
      _KEY,
      *(_BUDGET if budget else ()),
      *(() if finished else (_SECRETS,)))


def of_edge_server() -> tuple[File, ...]:
  """The files of the server of split learning over the wire."""
  return (_STATEMENT, _CONFIG, _CHECKPOINTS,
          File("server.json, devices.json", "guard", "by what the server knows its run and its "
               "devices"),
          File("the file of --transcript", "guard", "every byte that crossed, labels too"))


def of_device() -> tuple[File, ...]:
  """The files of a device of split learning over the wire."""
  return (_STATEMENT, _CONFIG, File("checkpoints", "guard", "the device's part of the network, "
                                    "where it is trained"),
          File("noise.json", "delete", "root of the noise of this device; guard it until the run "
               "is over. Delete copies and backups too"))
