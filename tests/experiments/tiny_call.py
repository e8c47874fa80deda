"""A config of a few seconds: DP-FedEmb on tiny rendered faces."""

import ml_collections


def get_config(variant: str = "resident"):
  if variant not in ("resident", "gathered", "pretrain"):
    raise ValueError(f"no variant {variant!r}: resident, gathered, pretrain")
  config = ml_collections.ConfigDict(dict(
      method=dict(
          name="dp_fedemb", backbone=dict(name="lenet", embedding_dim=8), head="linear",
          start_head="shared_frame", classes="all",
          clients=dict(per_round=4, users_per_client=2, max_examples=8),
          local=dict(optimizer="sgd", learning_rate=0.05, epochs=1, batch_size=4),
          aggregate=dict(clip_norm=1.0, noise_multiplier=2.0),
          server=dict(learning_rate=0.01)),
      data=dict(name="synthetic_faces", people=8, evaluation=6, images_per_person=4, size=28),
      rounds=6, privacy=dict(delta=1e-3, noise_seed=7),
      evaluation=dict(fars=(0.1,), every=4, batch_size=16, bootstrap=20),
      compute=dict(rounds_per_dispatch=2, checkpoint_every=3, resident="true")))
  if variant == "gathered":
    config.compute.resident = "false"
  if variant == "pretrain":
    config.data.update(dict(public=5, public_images_per_person=4, public_seed=99))
    config.start = dict(name="pretrain", rounds=2, method=dict(
        name="centralized", head="linear", steps=2,
        local=dict(optimizer="sgd", learning_rate=0.05, batch_size=8)))
  return config
