"""Names of the front door: all there, each once, loaded when they are used."""

import pathlib
import subprocess
import sys

import pytest

import fedjax_face as ff
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.federated.optimizers import Optimizer
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head
from fedjax_face.options import kind_of

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_every_name_is_there():
  for name in ff.__all__:
    assert getattr(ff, name) is not None
  assert set(ff.__all__) <= set(dir(ff))


def test_no_name_stands_for_two_things():
  names = [name for names in (ff._PROGRAMS | ff._HOMES).values() for name in names]
  assert len(names) == len(set(names)) and not set(names) & set(ff._MODULES)


def test_what_is_registered_of_the_flat_kinds_has_a_name():
  for kind in (Method, Backbone, Head, Aggregate, Optimizer):
    missing = set(kind_of(kind).names()) - set(ff.__all__)
    assert not {name for name in missing if kind_of(kind).find(name, "").function.__module__.
                startswith("fedjax_face")}, missing


@pytest.mark.parametrize("program", sorted({
    path.stem for path in (ROOT / "experiments").glob("*.py")} - {
        "__init__", "calls", "command_line", "device", "edge_server", "evaluate", "train"}))
def test_every_program_is_one_call(program):
  assert callable(getattr(ff, program))


def test_importing_the_package_loads_nothing_heavy():
  code = ("import sys, fedjax_face; print([m for m in ('jax', 'numpy', 'flax', 'matplotlib', "
          "'tensorflow_datasets', 'grpc') if m in sys.modules])")
  said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert said.stdout.strip() == "[]"


def test_every_kind_can_be_registered_from_the_front_door():
  code = ("import fedjax_face as ff; print(all(callable(getattr(ff.register, kind)) for kind in "
          "('aggregate', 'backbone', 'data', 'method', 'head', 'mechanism', 'start')))")
  said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert said.stdout.strip() == "True"


def test_using_the_parts_loads_no_reader_and_no_plotter():
  code = ("import sys, fedjax_face as ff; ff.fit, ff.dp_fedemb(), ff.synthetic_faces(); "
          "print([m for m in ('matplotlib', 'tensorflow_datasets', 'grpc') if m in sys.modules])")
  said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert said.stdout.strip() == "[]"
