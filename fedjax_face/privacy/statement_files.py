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
_RESOLVED = File("resolved.json, lock", "guard", "scalars as they were used, what a round "
                 "releases, the platform; and which process writes here")
_METRICS = "metrics measured on private data without noise"
_SECRETS = File(
    "secrets", "delete", "roots of noise and participation of a run that has not finished; guard "
    "them until it has, when it deletes them itself. Delete copies and backups too")
_KEY = File(
    "training_set.key", "guard", "key of the digest of the training set above: who has it and "
    "everybody else's data can tell who is in. Its owner needs it to compute the digest anew")
_INPUTS = File(
    "inputs.json, facts.npz", "guard", "who trains, who evaluates and who is public, by name where "
    "they have names, with digests under that key of every image, by which the folder knows its "
    "data again and is used without them")
_BUDGET = (
    File("privacy_budget.json", "guard", "which entry of the privacy budget is this run's"),
    File("the file of --privacy_budget, that file's .lock", "guard", "outside this folder; digests "
         "of the data without a key, and what later runs are counted by (the lock is empty)"),
)


def of_run(*, evaluates_training_people: bool, releases_model: bool = True, curves: bool = True,
           secrets: bool = False, start: bool = False, budget: bool = False,
           silos: bool = False, wandb: bool = False, ended_early: bool = False
           ) -> tuple[File, ...]:
  """The files of a training run.

  Args:
    evaluates_training_people: whether evaluation images are, or may be, of people who train.
    releases_model: whether what is trained leaves through a channel with a guarantee.
    curves: whether it draws ROC and DET curves.
    secrets: whether it still keeps its roots of noise and participation.
    start: whether it keeps a public start.
    budget: whether it is entered in a privacy budget.
    silos: whether it keeps class embeddings of silos (`figures/overlap.png` compares them).
    wandb: whether metrics go to Weights & Biases as well.
    ended_early: whether a callback ended it.
  """
  figures = "figures/training.png" + (", figures/overlap.png" if silos else "")
  whom = ("images of people who train or may do so" if evaluates_training_people else
          "the evaluation people, whom nothing protects: publish them where these people agree")
  return (
      _STATEMENT, _CONFIG, _RESOLVED, _checkpoints(releases_model, silos, secrets),
      File("metrics.csv, events.out.tfevents.*" + (", wandb*" if wandb else ""), "guard", _METRICS
           + ("; Weights & Biases holds them already" if wandb else "")),
      File(f"summary.json, {figures}", "guard", "drawn from such metrics"
           + (" and from class embeddings" if silos else "")),
      *((File("figures/roc.png, figures/det.png", "guard", f"results, without noise, on {whom}"),)
        if curves else ()),
      *((File("start", "guard", "trained on the public set alone: as public as that set is"),)
        if start else ()),
      _KEY, _INPUTS,
      *((File("ended.json", "guard", "when code that looked at such metrics ended training"),)
        if ended_early else ()),
      *(_BUDGET if budget else ()),
      *((_SECRETS,) if secrets else ()))


def of_edge_server(transcript: bool = False) -> tuple[File, ...]:
  """The files of the server of split learning over the wire, and its --transcript."""
  return (_STATEMENT, _CONFIG, _checkpoints(False, False, False),
          File("metrics.csv", "guard", _METRICS),
          File("server.json, devices.json, tokens.json", "guard", "by what the server knows its "
               "run and its devices"),
          File("the folder of --tokens", "delete", "a secret of each device, once it has been "
               "handed over"),
          *((File("the file of --transcript", "guard", "every byte that crossed, labels too"),)
            if transcript else ()))


def of_device(trained: bool = True) -> tuple[File, ...]:
  """The files of a device of split learning over the wire; `trained`: its part of the network."""
  return (_STATEMENT, _CONFIG,
          *((File("checkpoints", "guard", "the device's part of the network"),) if trained else ()),
          File("noise.json", "delete", "root of the noise of this device; guard it until the run "
               "is over. Delete copies and backups too"))


def _checkpoints(releases_model: bool, silos: bool, unfinished: bool) -> File:
  said = ["the trained model is in them and in no other file"]
  if releases_model:
    said.append("its released parameters may be taken out and published, the folder may not")
  beside = [*(["class embeddings and control variates of silos"] if silos else []),
            *(["the noise of earlier rounds"] if unfinished else [])]
  if beside:
    said.append(f"beside it stands what must not leave: {', '.join(beside)}")
  return File("checkpoints*", "guard", "; ".join(said))
