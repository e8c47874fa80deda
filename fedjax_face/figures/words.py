"""Names of metrics, methods and settings as a reader of a figure says them."""

from __future__ import annotations

import re

_ACRONYMS = ("auc", "dir", "dp", "dplc", "eer", "hter", "lfw", "mse", "nme", "roc", "tar")
_HYPHENED = {"dp_fedemb": "DP-FedEmb"}
_SPELT = {"fedaws": "FedAwS", "fedavg": "FedAvg", "fedemb": "FedEmb", "fedgc": "FedGC",
          "fedpe": "FedPE", "fedprox": "FedProx", "fedproto": "FedProto", "scaffold": "SCAFFOLD",
          "hyperface": "HyperFace", "privacyface": "PrivacyFace"} | {
              word: word.upper() for word in _ACRONYMS}
_NUMBERED = r"\b(epsilon|rank|view|lambda|seed)(?=\d)"


def in_words(name: str) -> str:
  """A name of code, in words: `recall_all_pairs@far=0.1` -> `recall all pairs at FAR 0.1`.

  A name that is in words already stays as it is.
  """
  for code, paper in _HYPHENED.items():
    name = name.replace(code, paper)
  spaced = name.replace("@far=", " at FAR ").replace("/", ", ").replace("_", " ")
  spaced = re.sub(_NUMBERED, r"\1 ", spaced)
  return re.sub(r"\b[a-z]+\b", lambda found: _SPELT.get(found[0], found[0]), spaced)
