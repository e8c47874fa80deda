"""Face and image embeddings trained with federated learning and differential privacy, in JAX.

    import fedjax_face as ff

    data = ff.synthetic_faces(people=1000, public=300)
    run = ff.fit(ff.dp_fedemb(), data, rounds=20, start=ff.pretrain(ff.centralized()),
                 privacy=ff.budget(epsilon=8.0, delta=1e-5))

Names load what they need when they are first used. Rarer parts stand under their kind:
`ff.samplings.poisson`, `ff.partitions.dirichlet`, `ff.drifts.scaffold`, `ff.mechanisms.dp_lloyd`,
`ff.public_sets.lfw`, `ff.networks.hyperface`, `ff.devices.frozen`. What the programs of
`experiments/` do is one call each: `fit`, `compare`, `plan`, `rehearse`, `audit`, `attack`,
`detect`, `inspect`, and `run.evaluate`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PROGRAMS = {
    "attacks.attack": ("attack",),
    "attacks.method_audit": ("audit",),
    "runs.asked": ("from_config",),
    "runs.compare": ("compare",),
    "runs.detect": ("detect",),
    "runs.fit": ("fit", "rounds"),
    "runs.inspection": ("inspect",),
    "runs.load": ("load",),
    "runs.plan": ("plan",),
    "runs.rehearsal": ("rehearse",),
    "runs.run": ("Run",),
}
_HOMES = {
    "runs.settings": ("budget", "compute", "protocols", "rehearsed"),
    "runs.start": ("pretrain",),
    "options": ("OptionError", "register", "replace"),
    "data.by_hand": ("faces",),
    "data.dataset": ("FaceDataset",),
    "data.sources": ("Sources",),
    "data.photograph_sets": ("photographs",),
    "data.regions.sources": ("RegionSources",),
    "data.sets": ("closed_set", "digiface", "femnist", "folder", "insightface_rec", "lfw",
                  "listing", "orl", "synthetic_faces", "tfds"),
    "methods.centralized": ("centralized",),
    "methods.composed": ("composed",),
    "methods.dp_activations": ("dp_activations",),
    "methods.dp_fedemb": ("dp_fedemb",),
    "methods.dp_hyperface": ("dp_hyperface", "face_detector", "hyperface"),
    "methods.fedavg": ("fedavg",),
    "methods.fedaws": ("fedaws",),
    "methods.fedgc": ("fedgc",),
    "methods.fedpe": ("fedpe",),
    "methods.fedproto": ("fedproto",),
    "methods.local_only": ("local_only",),
    "methods.privacyface": ("privacyface",),
    "models.heads": ("arcface", "cosface", "linear", "normalised"),
    "models.iresnet": ("iresnet18", "iresnet50"),
    "models.lenet": ("lenet", "lenet_small"),
    "models.mobilenet": ("mobile_small", "mobilenet_v2"),
    "models.reddi_cnn": ("reddi_cnn",),
    "models.resnet": ("resnet50",),
    "models.vgg_face": ("vgg_face", "vgg_face_small"),
    "federated.clients": ("virtual_clients",),
    "federated.silos": ("silos",),
    "federated.local": ("local_steps",),
    "federated.aggregates": ("adaptive", "clipped", "coordinate_median", "correlated", "gaussian",
                             "krum", "mean", "trimmed_mean"),
    "federated.optimizers": ("adam", "averaging", "fedadagrad", "fedadam", "fedyogi", "momentum"),
    "federated.exchanges": ("clusters",),
    "losses.consensus": ("consensus_aware",),
    "losses.prototypes": ("to_prototypes",),
    "losses.corrections": ("gradient_correction", "spreadout"),
}
_MODULES = {
    "activations": "split.mechanism", "devices": "split.device", "domains": "data.domains",
    "drifts": "federated.local",
    "evaluations": "runs.settings", "gradients": "dp_sgd.gradients", "held_out": "data.held_out",
    "labels": "split.labels",
    "mechanisms": "federated.mechanisms", "networks": "models.task_networks",
    "optimizers": "dp_sgd.optimizers", "partitions": "federated.silos",
    "photograph_sources": "data.photograph_sets", "proposers": "data.regions.proposers",
    "public_sets": "data.public_sets", "samplings": "federated.sampling", "splits": "split.cuts",
    "tasks": "losses.tasks", "units": "dp_sgd.units",
}
_HOME_OF = {name: home for home, names in (_PROGRAMS | _HOMES).items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
  if name == "register":  # a kind is there when its module is
    for home in (*_HOMES, *_MODULES.values()):
      importlib.import_module(f"{__name__}.{home}")
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{_MODULES[name]}")
  if name not in _HOME_OF:
    import difflib
    near = difflib.get_close_matches(name, __all__, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
  found = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
  globals()[name] = found
  return found


def __dir__() -> list[str]:
  return __all__
