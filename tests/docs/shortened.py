"""What makes a command of a page a matter of seconds, by what it runs; stated, and nothing else."""

from tests.docs.pages import ROOT

_FACES = ("data.people=48", "data.evaluation=12", "evaluation.bootstrap=5", "rounds=2")
_START = ("start.rounds=2", "start.method.steps=2")
# config:variant -> overrides; a variant that is not here needs data from elsewhere
OVERRIDES = {
    "dp_fedemb:synthetic": (*_FACES, *_START, "data.public=24", "method.clients.per_round=4",
                            "method.clients.users_per_client=2"),
    "dp_fedemb:heads": (*_FACES, *_START, "data.public=24", "method.clients.per_round=2",
                        "method.clients.users_per_client=2"),
    "fedgc:synthetic": (*_FACES, "method.clients.partition.num_silos=4"),
    "privacyface:silos36": (*_FACES, *_START, "data.public=16",
                            "method.clients.partition.num_silos=4"),
    "privacyface:synthetic": (*_FACES, *_START, "data.public=16"),
    "composed:synthetic": (*_FACES, *_START, "data.public=16",
                           "method.clients.partition.num_silos=4"),
    "dp_hyperface:synthetic": (
        "rounds=2", "start.rounds=2", "evaluation.bootstrap=5",
        "data.sources.scenes.scenes=24", "data.sources.scenes.people=12",
        "data.public.scenes.scenes=24", "data.public.scenes.people=12",
        "method.units.batch_size=4", "method.units.capacity=12",
        "start.method.units.batch_size=4", "start.method.units.capacity=12"),
    "dp_activations:synthetic": (
        "rounds=2", "evaluation.bootstrap=5", *_START, "data.people.people=6",
        "data.people.images_per_person=8", "data.public.people=8"),
    "activation_attacks:synthetic": (
        "cuts=bottleneck", "epsilons=8", "without_noise=False", "decoder.epochs=1",
        "decoder.width=4", "inversion.steps=2", "inversion.pictures=2", "trials=200"),
    "leak_back:synthetic": (),
    "dp_fedemb:folder": ("rounds=2", "evaluation.bootstrap=5", *_START, "data.public.people=16",
                         "method.backbone=lenet_small"),
}
# program -> flags beside them
FLAGS = {
    "audit": ("--trials=60", "--cluster_trials=60"),
    "compare": ("--seeds=2",),
    "rehearse": ("--candidates=2", "--repetitions=1", "--rounds=2"),
}
NEED_THEIR_CODE = {"docs/data.md"}
"""Pages whose commands read what their Python code writes."""
PLACEHOLDERS = {"PHOTOGRAPH_OR_FOLDER": str(ROOT / "docs/faces.png")}
_NEEDS_A_NAME = {"PHOTOGRAPHS", "PUBLIC", "PREPARED", "DOWNLOADED", "PEOPLE.csv", "LIST.csv"}
_NOT_HERE = {  # why a command is left to others
    "make": "CI runs the targets, and `make demo` is dp_fedemb:synthetic",
    "pip": "installs", "pre-commit": "installs", "pytest": "CI runs all tests",
    "tests": "`make test-faults` and this program take what they say",
    "benchmarks": "a quiet machine is theirs"}


def key_of(words):
  """config:variant of a command, or None where it names no config."""
  for word in words:
    if word.startswith("--config="):
      name, _, variant = word.partition("=")[2].partition(":")
      return f"{name.removeprefix('configs/').removesuffix('.py')}:{variant or 'synthetic'}"
  return None


def skipped(words):
  """Why a command is not run here, or None."""
  room = words[2].partition(".")[0] if words[0] == "python" else words[0]
  if room in _NOT_HERE:
    return _NOT_HERE[room]
  key = key_of(words)
  if any(value.partition("=")[2] in _NEEDS_A_NAME for value in words):
    return "names a folder of one's own"
  asks = any(word.startswith("--options") for word in words)
  return None if key is None or key in OVERRIDES or asks else "needs data from elsewhere"


def shortened(words):
  """The words of a command of `experiments`, shortened."""
  program = words[2].removeprefix("experiments.")
  said = [PLACEHOLDERS.get(word, word) for word in words]
  if any(word.startswith("--options") for word in words):
    return said
  flags = list(FLAGS.get(program, ()))
  if program == "audit" and "--one_run" not in words:
    return said + flags
  if program == "audit":
    flags.append("--canaries=8")
  if program != "compare":  # whose config is shortened in its file, as it takes no overrides
    flags += [f"--config.{value}" for value in OVERRIDES.get(key_of(words) or "", ())]
  return said + flags


def compared(key):
  """A config file of the same name whose comparison is of two settings, shortened."""
  name = key.partition(":")[0]
  flags = [f"--config.{value}" for value in OVERRIDES[key]]
  return f'''
import runpy
from fedjax_face.runs.asked import overridden
WHOLE = runpy.run_path({str(ROOT / "configs" / f"{name}.py")!r})
KEPT = ("get_gap", "get_non_private", "get_equivalence")
globals().update({{name: WHOLE[name] for name in KEPT if name in WHOLE}})

def get_config(variant="synthetic"):
  return overridden(WHOLE["get_config"](variant), {flags!r}).config

def get_comparison(variant):
  every = WHOLE["get_comparison"](variant)
  held = [*(get_gap(variant) if "get_gap" in WHOLE else ())]
  held += [get_non_private(variant)] if "get_non_private" in WHOLE else []
  held += [get_equivalence(variant)["reference"]] if "get_equivalence" in WHOLE else []
  names = list(dict.fromkeys([next(iter(every)), *held, *every]))[:max(2, len(set(held)))]
  return {{name: every[name] for name in names}}
'''
