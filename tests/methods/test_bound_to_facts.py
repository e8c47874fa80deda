"""No method is told a pixel of the training set when it is bound."""

import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.data.facts import UnseenImages, packed, unpacked
from fedjax_face.draws import Draws
from fedjax_face.method import Budget, Method, Setting
from fedjax_face.runs import loop
from tests.data.test_facts import regions
from tests.methods import tiny, tiny_faces

NAMES = options.kind_of(Method).names()
SILOS = {"partition": {"num_silos": 2}}
USERS = {"per_round": 2, "users_per_client": 2}
EXCHANGE = {"mechanism": {"clusters": 2}, "noise_multiplier": 1.0}
UNITS = {"batch_size": 2, "capacity": 4}
NOISED = {"noise_multiplier": 1.0}
SAID = {
    "dp_fedemb": {"clients": USERS, "aggregate": NOISED},
    "fedavg": {"clients": USERS, "aggregate": NOISED},
    "fedgc": {"clients": SILOS, "start_head": "public_prototypes"},
    "fedpe": {"clients": SILOS, "start_head": "public_prototypes"},
    "fedaws": {"clients": SILOS, "start_head": "public_prototypes"},
    "fedproto": {"clients": SILOS},
    "privacyface": {"clients": SILOS, "exchange": EXCHANGE},
    "composed": {"clients": SILOS, "exchange": EXCHANGE, "aggregate": NOISED},
    "dp_activations": {"split": {"projection": 4}, "activations": NOISED},
    "dp_hyperface": {"units": UNITS, "gradient": NOISED},
    "hyperface": {"units": UNITS},
    "face_detector": {"units": UNITS},
    "local_only": {"clients": SILOS},
}


def bound(name, train=None, **changes):
  method = options.kind_of(Method).find(name, "method")
  said = {**SAID.get(name, {})}
  if "backbone" in method.parameters:
    said["backbone"] = tiny.OneLayer(8)
  if "network" in method.parameters:
    said["network"] = tiny_faces.tiny()
  made = options.build(Method, {"name": name, **said}, "method")
  feeds = options.made(made).data
  setting = Setting(tiny.one_device(), 2, privacy=Budget(None, 1e-3))
  if feeds != "face_tasks":
    start = tiny.OneLayer(8).init(jax.random.key(0), np.zeros((1, 12, 12, 1), np.float32))
    setting = setting._replace(public=tiny.people(8, seed=3), start=start, start_is_public=True)
  train = (regions() if feeds == "face_tasks" else tiny.people()) if train is None else train
  return methods.bind(made, train, setting._replace(**changes)), train


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_bound_to_facts(name):
  algorithm, train = bound(name)
  assert isinstance(algorithm.facts.images, UnseenImages)
  arrays, said = packed(algorithm.facts)
  again = bound(name, unpacked(arrays, said))[0]  # as a run is loaded: without any image
  state = jax.eval_shape(algorithm.init, jax.random.key(0))
  assert jax.tree.structure(state) == jax.tree.structure(
      jax.eval_shape(again.init, jax.random.key(0)))
  assert again.releases == algorithm.releases and again.hparams == algorithm.hparams
  jax.tree.map(np.testing.assert_array_equal, again.cohort(Draws.of(0), 0),
               algorithm.cohort(Draws.of(0), 0))


@pytest.mark.parametrize("name", NAMES)
def test_a_method_that_looks_while_it_is_bound_fails(name, monkeypatch):
  make = Method.__new__

  def nosy(cls, bind, *rest, **named):
    def looking(train, setting, hparams):
      np.asarray(train.images[:1])
      return bind(train, setting, hparams)
    return make(cls, looking, *rest, **named)

  monkeypatch.setattr(Method, "__new__", nosy)
  with pytest.raises(ValueError, match="^method[.a-z]*: pixels of the training set are not facts"):
    bound(name)


@pytest.mark.parametrize("name", ["fedgc", "privacyface", "composed"])
def test_what_comes_from_pixels_is_state(name):
  algorithm, train = bound(name)
  assert algorithm.look is not None
  start = loop.initial_state(algorithm, 0, tiny.one_device(), train.images)
  other = loop.initial_state(algorithm, 0, tiny.one_device(), 255 - train.images)
  rows, others = (np.asarray(state.heads.class_embeddings) for state in (start, other))
  assert np.isfinite(rows).all() and (rows[:12] != others[:12]).any(axis=1).all()
  blind = loop.initial_state(algorithm, 0, tiny.one_device())
  assert np.isnan(blind.heads.class_embeddings).all()  # nobody trains from it
  assert jax.tree.structure(blind) == jax.tree.structure(start)


def test_images_are_refused_where_a_method_would_keep_them():
  known = bound("fedavg")[0].facts
  with pytest.raises(ValueError, match="Algorithm.look"):
    known.select(np.arange(3)).images[0]
  assert ff.FaceDataset is type(known)
