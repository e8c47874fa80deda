"""Every variant of the flat configs."""

import importlib

VARIANTS = {
    "dp_fedemb": ("synthetic", "heads", "femnist", "lfw", "folder", "digiface", "emnist", "gld",
                  "inaturalist"),
    "fedgc": ("synthetic", "lfw", "casia"),
    "privacyface": ("synthetic", "silos36", "lfw", "bupt"),
    "composed": ("synthetic",)}
EVERY = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


def load(name):
  return importlib.import_module(f"tests.flat.{name}")
