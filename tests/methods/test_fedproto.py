"""FedProto: what silos tell, what is made of it, what it adds to the loss, and what it reveals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.losses.prototypes import Prototypes, class_sums, to_prototypes
from fedjax_face.method import Budget, Setting
from fedjax_face.method.algorithm import Data
from fedjax_face.runs import streams
from tests.methods import tiny

SILOS, CLASSES = 3, 4


def letters(persons=12, images=4):
  """Persons who write letters that others write too."""
  made = tiny.people(persons, images)
  label = (np.arange(len(made)) % CLASSES).astype(np.int32)
  return FaceDataset("letters", made.images, label, made.person, names=tuple("abcd"),
                     person_names=tuple(f"writer {p}" for p in range(persons)))


def method(rate=0.02, **changes):
  return ff.fedproto(**({
      "backbone": tiny.OneLayer(8), "head": ff.linear(),
      "clients": ff.silos(partition=ff.partitions.random(num_silos=SILOS)),
      "local": ff.local_steps(learning_rate=rate, optimizer="sgd", epochs=1, batch_size=4)}
      | changes))


def bound(chosen, **setting):
  return methods.bind(chosen, letters(), Setting(tiny.one_device(), 3, **setting))


def run(algorithm, rounds=2):
  data, state = Data(letters().images), algorithm.init(jax.random.key(0))
  step, states = jax.jit(algorithm.step), []
  for number in range(rounds):
    cohort = jax.tree.map(jnp.asarray, algorithm.cohort(Draws.of(1), number))
    keys = streams.step_keys(0, streams.public_root(0), number)
    state, metrics = step(state, data, cohort, algorithm.hparams, keys)
    states.append(state)
  return states, metrics


def embeddings(algorithm, backbone):
  """Raw embeddings of all images, by a second way."""
  images = letters().images.astype(np.float32) / 128 - 1
  dense = backbone["params"]["Dense_0"]
  return images.reshape(len(images), -1) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])


def test_the_prototype_of_a_class_is_the_mean_of_all_its_images():
  """At a rate of 0 nothing moves, so every silo's embeddings are those of the start."""
  algorithm = bound(method(rate=0.0))
  start = algorithm.init(jax.random.key(0))
  assert not start.heads.prototypes.known.any()
  (state,), _ = run(algorithm, rounds=1)
  found, own = state.heads.prototypes, embeddings(algorithm, start.params["backbone"])
  label = letters().label
  assert found.known.all()
  np.testing.assert_allclose(
      found.means, [own[label == c].mean(axis=0) for c in range(CLASSES)], atol=1e-4)


def test_silos_keep_heads_of_their_own():
  algorithm = bound(method())
  states, metrics = run(algorithm)
  heads = jax.tree.leaves(states[-1].heads.heads)[0]
  assert heads.shape == (SILOS, CLASSES, 8) and np.isfinite(heads).all()
  assert not np.allclose(heads[0], heads[1]) and np.isfinite(metrics["loss"])
  assert "head" not in states[-1].params


def test_without_weight_prototypes_change_nothing_and_with_it_they_do():
  plain, pulled = (run(bound(method(prototypes=ff.to_prototypes(weight=w))))[0][-1].params
                   for w in (0.0, 5.0))
  alone = run(bound(method(prototypes=ff.to_prototypes(weight=0.0))))[0][-1].params
  jax.tree.map(np.testing.assert_array_equal, plain, alone)
  assert any((a != b).any() for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(pulled),
                                            strict=True))


def test_prototypes_pull_embeddings_of_a_class_together():
  """Mean squared distance to the class mean over all silos, after some rounds, by weight."""
  def spread(weight):
    algorithm = bound(method(rate=0.005, prototypes=ff.to_prototypes(weight=weight)))
    own = embeddings(algorithm, run(algorithm, rounds=6)[0][-1].params["backbone"])
    label = letters().label
    return sum(((own[label == c] - own[label == c].mean(axis=0)) ** 2).mean()
               for c in range(CLASSES))
  assert spread(20.0) < 0.9 * spread(0.0)


def test_the_penalty_by_hand():
  told = Prototypes(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([True, False]))
  found = to_prototypes().adds(jnp.array([[3.0, 0.0], [5.0, 5.0]]), jnp.array([0, 1]), told,
                               {"weight": 0.5}, None)
  np.testing.assert_allclose(found.penalty, [0.5 * (4.0 + 0.0) / 2, 0.0])
  assert (jnp.exp(found.log_mass) == 0).all()


def test_sums_by_class_leave_padding_out_and_carry_no_gradient():
  held = jnp.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
  sums = class_sums(2)
  total, count = sums(held, jnp.array([1, 1, 0]), jnp.array([True, True, False]))
  assert total.tolist() == [[0, 0], [4, 6]] and count.tolist() == [0, 2]
  assert not jax.grad(lambda x: sums(x, jnp.array([1, 1, 0]), jnp.ones(3, bool))[0].sum())(
      held).any()


def test_what_leaves_is_listed_and_no_epsilon_can_be_had():
  algorithm = bound(method())
  release = next(r for r in algorithm.releases if r.channel == "class prototypes")
  assert "without noise" in release.note and release.seen_by == "the server and every silo"
  assert any("every silo's own head" in sentence for sentence in algorithm.not_covered)
  moved = algorithm.channels["class prototypes"](algorithm.init(jax.random.key(0)))
  assert moved.down == CLASSES * 8 * 4 and moved.up == moved.down + CLASSES * 4
  with pytest.raises(ValueError, match="'class prototypes' has no guarantee"):
    bound(method(aggregate=ff.gaussian()), privacy=Budget(8.0, 1e-3))
  with pytest.raises(ValueError, match="fedproto needs silos"):
    bound(method(clients=ff.virtual_clients(per_round=2, users_per_client=2)))


def test_a_drift_is_chosen_beside_it():
  states, _ = run(bound(method(local=ff.local_steps(
      learning_rate=0.02, optimizer="sgd", epochs=1, batch_size=4,
      drift=ff.drifts.fedprox(weight=1.0)))))
  assert np.isfinite(jax.tree.leaves(states[-1].params)[0]).all()
