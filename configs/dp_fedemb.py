r"""DP-FedEmb (Xu et al., CVPR 2023): user-level private image embeddings.

python -m experiments.train --config=configs/dp_fedemb.py:VARIANT --workdir=runs/VARIANT

VARIANT is synthetic (default), heads, femnist, lfw, folder, digiface, emnist, gld or inaturalist;
what each reached and cost is in the docstring of its function. The baselines are overrides of the
same file; another method keeps what is said of the parts that it takes too:

  non-private           --config.method.aggregate=mean --config.privacy.epsilon=None \
                        --config.method.server.learning_rate=0.5
  global-head FedAvg    --config.method=fedavg
  centralised           --config.method=centralized --config.privacy.epsilon=None \
                        --config.method.head=cosface --config.method.local.optimizer=momentum \
                        --config.method.local.learning_rate=0.005
  other noise           --config.privacy.epsilon=None \
                        --config.method.aggregate.noise_multiplier=0.5
"""

from __future__ import annotations

import ml_collections

# Server rate where few people mean much noise: each round moves by a fiftieth of a mean update, so
# that the noise, hundreds of times as long as the clip norm, does not carry the model away.
_FEW_PEOPLE = 0.002


def get_config(variant: str = "synthetic") -> ml_collections.ConfigDict:
  """The config of a variant."""
  variants = {"synthetic": synthetic, "heads": heads, "femnist": femnist, "lfw": lfw,
              "folder": folder, "digiface": digiface, "emnist": emnist, "gld": gld,
              "inaturalist": inaturalist}
  if variant not in variants:
    raise ValueError(f"dp_fedemb has no variant {variant!r}: {', '.join(variants)}")
  return ml_collections.ConfigDict(variants[variant]())


def synthetic() -> dict:
  """Built-in synthetic faces: the demo.

  Pre-trains on portraits of 500 public rendered people of another world, then trains on snapshots
  of 100,000 people, each of whom is protected. Photographs are rendered when a round asks for them.

  python -m experiments.train --config=configs/dp_fedemb.py:synthetic --workdir=runs/synthetic \\
      --cpu_devices=2
  Recall at FAR 0.1 on 400 people whom no choice has seen, epsilon 0.5 (replace-one, delta 1e-6):
  0.486 from a public start of 0.426, +0.060 [+0.045, +0.075] (seed 0);
  0.486 from a public start of 0.441, +0.045 [+0.032, +0.063] (seed 1);
  0.501 from a public start of 0.442, +0.059 [+0.041, +0.072] (seed 2; paired
  intervals over people). 4 min on two cores.

  Client rate, margin and clip norm were chosen by `experiments.rehearse` on public people of the
  private domain, the server rate in a world that protects nobody (data.seed 3). So no `rehearsal`
  section claims that they cost nothing; see docs/results/dp_fedemb.md.
  """
  return dict(
      method=dict(name="dp_fedemb", backbone="lenet_small",
                  clients=dict(per_round=192, users_per_client=8),
                  local=dict(learning_rate=0.005, epochs=1),
                  aggregate=dict(clip_norm=0.7), server=dict(learning_rate=0.1)),
      data=dict(name="synthetic_faces", people=100_000, evaluation=400, on_demand=True, seed=13,
                public=500),
      start=_public_start(rounds=40), privacy=dict(epsilon=0.5, delta=1e-6), rounds=20,
      evaluation=dict(fars=(1e-1, 1e-2), every=5,
                      headline=("recall_all_pairs@far=0.1", "recall_all_pairs/auc")))


def heads() -> dict:
  """Where a client's head starts, which classes it numbers, which form it has: not private.

  python -m experiments.compare --config=configs/dp_fedemb.py:heads --workdir=runs/heads
  The table is in docs/results/dp_fedemb.md (3 seeds, 20 min a seed on one core).
  """
  return dict(
      method=dict(name="dp_fedemb", backbone="lenet_small", clients=dict(per_round=8),
                  local=dict(learning_rate=0.01, epochs=1), aggregate="mean",
                  server=dict(learning_rate=0.2)),
      data=dict(name="synthetic_faces", people=1000, evaluation=200, seed=1, public=300,
                public_domain="street"),
      start=_public_start(rounds=24), rounds=20,
      evaluation=dict(fars=(1e-1, 1e-2), bootstrap=0,
                      headline=("recall_all_pairs@far=0.1", "recall_all_pairs/auc")))


def _public_start(rounds: int) -> dict:
  """Centralised pre-training of a linear head over all public people."""
  return dict(name="pretrain", method=dict(name="centralized", steps=24), rounds=rounds)


def femnist() -> dict:
  """Handwritten characters by writer; 36 classes train, the other 26 are unseen.

  python -m experiments.train --config=configs/dp_fedemb.py:femnist --workdir=runs/femnist
  Recall at FAR 1e-2 0.099 at epsilon 8 (105 writers, replace-one, delta 1e-5; untrained 0.096, raw
  pixels 0.127); 0.229 with the noise that a million people need, 0.238 without (three seeds, server
  rate 0.5 for the last two).
  """
  return dict(
      method=dict(name="dp_fedemb", server=dict(learning_rate=_FEW_PEOPLE),
                  clients=dict(per_round=8, users_per_client=4, max_examples=128)),
      data=dict(name="femnist"), privacy=dict(epsilon=8.0), rounds=24,
      evaluation=dict(every=12, headline=("recall_all_pairs@far=0.01", "recall_all_pairs/auc")))


def lfw() -> dict:
  """Labeled Faces in the Wild: people outside View-2 folds 9-10 train, those folds evaluate.

  python -m experiments.train --config=configs/dp_fedemb.py:lfw --workdir=runs/lfw
  View-2 AUC 0.714 at epsilon 8 (1,334 people, replace-one, delta 1e-5; untrained 0.689, raw pixels
  0.714); 0.875 with the noise that a million people need, 0.882 without (server rate 0.5 for the
  last two; means of three seeds).
  """
  return dict(
      method=dict(name="dp_fedemb", local=dict(flip=True), server=dict(learning_rate=_FEW_PEOPLE),
                  clients=dict(per_round=16, users_per_client=8, max_examples_per_user=10)),
      data=dict(name="lfw", size=32, test_folds=(9, 10), min_images=2),
      privacy=dict(epsilon=8.0), rounds=24,
      evaluation=dict(names=("lfw_view2", "tar_at_far"), fars=(1e-1, 1e-2), every=12,
                      headline=("lfw_view2/auc", "tar@smallest_far", "lfw_view2/accuracy")))


def folder() -> dict:
  """A folder with a sub-folder for each person; a random third of the people evaluates.

  python -m experiments.train --config=configs/dp_fedemb.py:folder --workdir=runs/folder \\
      --config.data.path=PHOTOGRAPHS
  Who evaluates can be named: docs/data.md.
  With few people epsilon 8 leaves the model where it starts: give it a public start (`start` and
  `data.public`) and choose rates on public people (`experiments.rehearse`). The non-private
  override above shows what can be learned, but on people who are to be protected it is itself a
  release without bound.
  """
  return dict(
      method=dict(name="dp_fedemb", local=dict(flip=True), server=dict(learning_rate=_FEW_PEOPLE),
                  clients=dict(per_round=4, users_per_client=4, max_examples_per_user=10)),
      data=dict(name="folder", size=64, evaluation=1 / 3, min_images=2),
      privacy=dict(epsilon=8.0), rounds=48,
      evaluation=dict(fars=(1e-1, 1e-2), every=12,
                      headline=("recall_all_pairs@far=0.1", "recall_all_pairs/auc")))


def _published(data: dict, privacy: dict, backbone: str = "lenet", **noise: float) -> dict:
  """The released code's choices: one random linear head for all, all identities in it, SGD."""
  return dict(
      method=dict(name="dp_fedemb", backbone=backbone, head="linear", start_head="shared_frame",
                  classes="all",
                  clients=dict(per_round=32, users_per_client=8, max_examples=2048),
                  local=dict(learning_rate=5e-3, head_learning_rate_scale=100.0,
                             optimizer="momentum", epochs=8, batch_size=32),
                  aggregate=dict(clip_norm=1.0, **noise),
                  server=dict(learning_rate=0.02)),
      data=data, privacy=privacy, rounds=200,
      evaluation=dict(every=50, headline=("recall_all_pairs@far=0.01",)))


def digiface() -> dict:
  """DigiFace-1M, 10,000 identities of 72 images 112x112, with the published cohort. Not run here.

  Needs the archive: see fedjax_face/data/readers/digiface_builder.py.

  python -m experiments.train --config=configs/dp_fedemb.py:digiface --workdir=runs/digiface \\
      --config.data.data_dir=PREPARED --config.data.manual_dir=DOWNLOADED
  """
  return _published(dict(name="digiface"), dict(epsilon=8.0), "mobilenet_v2")


def emnist() -> dict:
  """EMNIST by 3,400 writers, the published command (spec of the paper). Not run here.

  Reads LEAF FEMNIST json files from data.path; the published noise multiplier is on the mean of
  virtual clients of 8 writers, so the ledger divides it by 2.

  python -m experiments.train --config=configs/dp_fedemb.py:emnist --workdir=runs/emnist \\
      --config.data.path=LEAF
  """
  return _published(dict(name="femnist"), dict(epsilon=None), noise_multiplier=0.62)


def gld() -> dict:
  """Google Landmarks by 1,262 contributors, of 2,028 landmarks, from a list. Not run here.

  data.path is a CSV with a row for each photograph: path, person (its contributor, who is
  protected) and label (the landmark). A tenth of the landmarks is unseen and evaluates; how many
  the paper held out is not known here, nor which of its choices for EMNIST it kept.

  python -m experiments.train --config=configs/dp_fedemb.py:gld --workdir=runs/gld \\
      --config.data.path=LIST.csv
  A round is 32 virtual clients of up to 2,048 images 224x224 each, forward and backward through
  MobileNetV2: 65,536 images, for an accelerator. For a try on a CPU:

  python -m experiments.train --config=configs/dp_fedemb.py:gld --workdir=runs/gld_small \\
      --config.data.path=LIST.csv --config.data.size=32 --config.method.backbone=mobile_small \\
      --config.method.clients.per_round=4 --config.method.clients.max_examples=64
  """
  return _published(_by_contributor(), dict(epsilon=8.0), "mobilenet_v2")


def inaturalist() -> dict:
  """iNaturalist by 9,275 observers, of 1,203 species, from a list. Not run here.

  As `gld`: path, person (the observer) and label (the species).

  python -m experiments.train --config=configs/dp_fedemb.py:inaturalist --workdir=runs/inat \\
      --config.data.path=LIST.csv
  """
  return _published(_by_contributor(), dict(epsilon=8.0), "mobilenet_v2")


def _by_contributor() -> dict:
  """A list of photographs whose persons contributed them; labels of the evaluation are unseen."""
  return dict(name="listing", size=224, evaluation=0.1, held_out="unseen_labels")


def get_comparison(variant: str) -> dict[str, dict]:
  """Settings that `experiments.compare` sets side by side: name -> overrides of the variant.

  `million`: the noise on the mean that a million people would need at epsilon 8
  (experiments.plan; docs/results/comparisons.md).
  `one_user`: the baseline as published, every client one user; else the same virtual clients.
  """
  if variant == "heads":
    return _starts_of_heads()
  noise = {"synthetic": None, "femnist": 0.03, "lfw": 0.04}
  if variant not in noise:
    raise ValueError(f"nothing is compared with {variant!r}: {', '.join(noise)}, heads")
  no_noise = {"privacy.epsilon": None, "method.aggregate": "mean"}
  if variant == "synthetic":
    return {"epsilon 0.5": {}, "no noise": no_noise}
  rate = {"method.server.learning_rate": 0.5}  # of 0.2 and 0.5, best for both on validation people
  million = rate | {"privacy.epsilon": None, "method.aggregate.noise_multiplier": noise[variant]}
  global_head = {"method": "fedavg"}
  settings = {
      "dp_fedemb_million": million,
      "fedavg_one_user_million": million | global_head | {"method.clients.users_per_client": 1},
      "fedavg_million": million | global_head,
      "dp_fedemb_epsilon8": {},
      "dp_fedemb_non_private": rate | no_noise,
      "centralized": {"method": "centralized", "privacy.epsilon": None, "method.head": "cosface",
                      "method.local.learning_rate": 0.005},
  }
  # The intervals of the table are over seeds.
  return {name: given | {"evaluation.bootstrap": 0} for name, given in settings.items()}


def get_non_private(variant: str) -> str:
  """The setting of `get_comparison` whose gain over the start is 100 %."""
  return {"synthetic": "no noise", "heads": "local_prototypes, own, cosface, 8"}.get(
      variant, "dp_fedemb_non_private")


def _starts_of_heads() -> dict[str, dict]:
  """Every start, numbering and form of a head, with one local epoch and with eight."""
  return {f"{start}, {classes}, {head}, {epochs}": {
      "method.start_head": start, "method.classes": classes, "method.head": head,
      "method.local.epochs": epochs}
          for start in ("local_prototypes", "shared_frame", "per_client")
          for classes in ("own", "all") for head in ("cosface", "linear") for epochs in (1, 8)}
