"""The method's section of a flat config of `dp_activations`."""

from __future__ import annotations

from typing import Any

from fedjax_face.split.accounting import require_mode
from fedjax_face.split.labels import LabelPolicy
from tests.flat import translate
from tests.flat.hparams import nested


def section(config: Any) -> dict[str, Any]:
  """What the config says of its method, complete, as `options.build(Method, ...)` takes it.

  Raises:
    ValueError: a mode, a label policy or a key of `hparams` that there is not, labels in clear that
      nobody acknowledged, or a pre-training that is not declared public.
  """
  if config.get("pretrain") and not config.pretrain.get("public", False):
    raise ValueError("pretrain.public=False: the device part must be public, so its pre-training "
                     "needs a set that pretrain.public declares public")
  options, own = config.split, nested(config.hparams, clips="activations")
  return {
      "name": "dp_activations",
      "backbone": translate.backbone(config.model),
      "split": {"name": "cut", "after": options.cut, "pooling": options.pooling,
                "projection": options.projection},
      "activations": {"name": "clipped_noise", **own.get("activations", {})},
      "labels": _labels(options),
      "device": _device(options.mode, own.get("device", {}), config.privacy),
      "clients": {"name": "devices", "number": options.devices,
                  "batch_size": options.batch_size},
      "server": {"name": "adam", "learning_rate": own["server"]["learning_rate"]},
  }


def _labels(options: Any) -> dict[str, Any]:
  policy = LabelPolicy(options.labels, options.label_epsilon, options.label_noise_multiplier,
                       options.labels_in_clear)
  own: dict[str, dict[str, Any]] = {
      "pseudonym": {}, "randomized_response": {"epsilon": policy.epsilon},
      "u_shaped": {"noise_multiplier": policy.noise_multiplier,
                   "acknowledged": policy.acknowledged}}
  return {"name": policy.policy, **own[policy.policy]}


def _device(mode: str, own: Any, privacy: Any) -> dict[str, Any]:
  require_mode(mode)
  if mode == "trained_private":
    return {"name": mode, "noise_ratio": privacy.gradient_noise_ratio, **own}
  if mode == "trained_published":
    return {"name": mode, "learning_rate": own["learning_rate"]}
  return {"name": "frozen" if mode == "frozen_fresh" else mode}
