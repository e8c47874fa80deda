"""Methods for silos: equalities between them, what they release, what they refuse."""

import dataclasses

import jax
import numpy as np
import pytest

from fedjax_face.data.dataset import compact
from fedjax_face.draws import Draws
from fedjax_face.federated.clients import Work
from fedjax_face.federated.head_life import SERVER_SEES_CLASSES
from fedjax_face.federated.silo_people import class_rows
from fedjax_face.method.algorithm import Data, StepKeys
from fedjax_face.privacy.ledger import is_non_private
from tests.algorithms import tiny
from tests.flat import fedgc, parts, registry
from tests.flat.hparams import replaced

TINY = {"rounds": 2, "model.embedding_dim": 8, "silos.num_silos": 3, "cohort.batch_size": 4,
        "correction.block": 5}


def build(sources=None, **overrides):
  config = fedgc.base()
  config.update_from_flattened_dict(TINY | overrides)
  return registry.build(config, sources or tiny.sources(), tiny.one_device())


def run(algorithm, rounds=2, **hparams):
  step, state = jax.jit(algorithm.step), algorithm.init(jax.random.key(0))
  data = Data(tiny.people().images)
  for number in range(rounds):
    cohort = algorithm.cohort(Draws.of(number), number)
    keys = StepKeys(jax.random.key(number), jax.random.key(100 + number))
    state, metrics = step(state, data, cohort, replaced(algorithm.hparams, hparams), keys)
  return state, metrics


FORMS = [("fedgc", "calibrated"), ("fedgc", "as_written"), ("fedaws", "cosine"),
         ("fedaws", "hinge")]


@pytest.mark.parametrize("name, form", FORMS)
def test_without_strength_every_correction_is_fedpe(name, form):
  expected, _ = run(build(algorithm="fedpe"))
  state, metrics = run(build(algorithm=name, **{"correction.form": form}), correction_strength=0.0)
  jax.tree.map(np.testing.assert_array_equal, expected, state)
  assert metrics["correction_norm"] == 0


@pytest.mark.parametrize("name, form", FORMS)
def test_a_single_silo_is_never_corrected(name, form):
  algorithm = build(algorithm=name, **{"correction.form": form, "silos.num_silos": 1})
  _, metrics = run(algorithm, correction_strength=10.0)
  assert metrics["correction_norm"] == 0


def test_correction_moves_class_embeddings_and_through_them_the_backbone():
  pe, _ = run(build(algorithm="fedpe"), rounds=3)
  gc, metrics = run(build(), rounds=3, correction_strength=10.0)
  assert metrics["correction_norm"] > 0
  assert not np.allclose(pe.heads.class_embeddings, gc.heads.class_embeddings)
  different = jax.tree.map(lambda a, b: not np.array_equal(a, b), pe.params, gc.params)
  assert any(jax.tree.leaves(different))


def test_linear_heads_are_corrected_with_their_self_term():
  """Columns of the whole gradient add up to zero, so the sum over all classes stays."""
  linear = {"model.head": "linear", "correction.form": "as_written"}
  before = run(build(**linear), rounds=1, correction_strength=0.0)[0].heads.class_embeddings
  after = run(build(**linear), rounds=1, correction_strength=1.0)[0].heads.class_embeddings
  assert np.abs(after - before).max() > 1e-4
  np.testing.assert_allclose(after.sum(axis=0), before.sum(axis=0), atol=1e-5)


def test_class_embeddings_are_those_of_the_silos():
  algorithm = build(**{"silos.by": "dirichlet", "silos.concentration": 0.5})
  state, _ = run(algorithm)
  rows = algorithm.class_embeddings(state)
  assert rows.class_embeddings.shape == (64, 8)
  assert np.bincount(rows.owner + 1).tolist()[0] == 52 and rows.owner.max() == 2
  assert np.isfinite(rows.class_embeddings).all()


def test_fedpe_sends_the_backbone_alone_and_fedgc_the_class_embeddings_too():
  pe, gc = build(algorithm="fedpe"), build()
  state = pe.init(jax.random.key(0))
  backbone = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
  assert tuple(pe.communication(state)) == (backbone,) * 4
  mean, largest = backbone + 4 * 8 * 4, backbone + 5 * 8 * 4  # silos of 5, 5 and 2 people
  assert tuple(gc.communication(state)) == (mean, mean + 4, largest, largest + 4)


def test_what_the_server_and_other_silos_see_is_on_the_ledger():
  channels = lambda algorithm: [release.channel for release in algorithm.releases]
  assert channels(build(algorithm="fedpe")) == ["backbone"]
  assert channels(build()) == ["backbone", "class embeddings", "corrections"]
  assert SERVER_SEES_CLASSES in build(algorithm="fedaws", **{"correction.form": "hinge"}).releases


@pytest.mark.parametrize("name", ["fedpe", "fedgc"])
@pytest.mark.parametrize("drift", ["fedprox", "scaffold"])
def test_drift_is_a_choice_of_every_method(name, drift):
  plain, _ = run(build(algorithm=name))
  state, metrics = run(build(algorithm=name, **{
      "local.drift": drift, "hparams.proximal_weight": 5.0}))
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), plain.params, state.params)
  assert max(jax.tree.leaves(moved)) > 0 and np.isfinite(metrics["loss"])


def test_shared_head_over_silos():
  state, _ = run(build(algorithm="fedavg", **{"cohort.classes": "all"}))
  assert state.params["head"]["params"]["class_embeddings"].shape == (12, 8)


def test_local_only_trains_on_one_silo():
  algorithm = build(algorithm="local_only", **{"cohort.only_silo": 0, "cohort.steps": 3})
  cohort = algorithm.cohort(Draws.of(0), 0)
  seen = set(tiny.people().person[cohort.examples].ravel().tolist())
  assert algorithm.population == 5 and seen <= set(range(12)) and len(seen) <= 5
  assert cohort.labels.max() < 5 and (cohort.num_classes == 5).all()
  run(algorithm)


def test_a_silo_without_people_cannot_train_alone():
  held = np.bincount(silos_of_twelve().silo[::4], minlength=12)
  with pytest.raises(ValueError, match="that silo holds nobody; expected one with people"):
    build(algorithm="local_only", **{"silos.num_silos": 12,
                                     "cohort.only_silo": int(held.argmin())})


def test_some_silos_a_round():
  algorithm = build(**{"cohort.silos_per_round": 2})
  cohort = algorithm.cohort(Draws.of(0), 0)
  assert len(set(cohort.client.tolist())) == 2 and (cohort.client >= 0).all()
  absent = ({0, 1, 2} - set(cohort.client.tolist())).pop()
  start = algorithm.init(jax.random.key(0)).heads.class_embeddings
  after = run(algorithm, rounds=1, correction_strength=0.0)[0].heads.class_embeddings
  owner = np.asarray(algorithm.class_embeddings(run(algorithm, rounds=1)[0]).owner)
  np.testing.assert_array_equal(after[owner == absent], start[owner == absent])
  assert all((after[owner == k] != start[owner == k]).any() for k in cohort.client)


def test_an_update_that_is_not_finite_leaves_its_silo_as_it_was():
  """A learning rate of infinity: every update is NaN, and nothing changes."""
  algorithm = build(**{"local.drift": "scaffold"})
  start = algorithm.init(jax.random.key(0))
  state, metrics = run(algorithm, rounds=1, client_learning_rate=np.inf, correction_strength=0.0)
  assert metrics["clients_not_finite"] == 3
  jax.tree.map(np.testing.assert_array_equal, start.heads, state.heads)
  jax.tree.map(np.testing.assert_array_equal, start.clients, state.clients)


def test_control_variates_are_on_the_ledger_even_where_the_update_is_noised():
  noised = {"privacy.aggregator": "gaussian", "hparams.noise_multiplier": 20.0}
  plain = build(algorithm="fedpe", **noised)
  assert [release.channel for release in plain.releases] == ["backbone"]
  assert plain.releases[0].event.noise_multiplier == 10  # of four people a silo: sensitivity 2C
  algorithm = build(algorithm="fedpe", **noised, **{"local.drift": "scaffold"})
  assert [release.channel for release in algorithm.releases] == ["backbone", "control variates"]
  assert is_non_private(algorithm.releases[1].event)


@pytest.mark.parametrize("num_silos", [3, 12])
def test_dp_fedemb_over_silos_is_accounted_at_twice_the_clip_norm(num_silos):
  """Several people in a silo, or one who is replaced: either moves the sum by 2C."""
  algorithm = build(algorithm="dp_fedemb", **{
      "silos.num_silos": num_silos, "privacy.aggregator": "gaussian",
      "hparams.noise_multiplier": 3.0})
  (release,) = algorithm.releases
  assert (release.unit, release.event.noise_multiplier) == ("person", 1.5)
  assert any("numbers of images" in sentence for sentence in algorithm.not_covered)
  run(algorithm)


def test_a_silo_with_one_class_is_noted():
  assert len(build().notes) == 1
  held = np.bincount(silos_of_twelve().silo[::4], minlength=12)
  empty, single, _ = build(**{"silos.num_silos": 12}).notes
  assert empty.startswith(f"{(held == 0).sum()} of 12 silos hold nobody")
  assert single.startswith(f"{(held == 1).sum()} of 12 silos hold a single class")


def silos_of_twelve():
  config = fedgc.base()
  config.update_from_flattened_dict(TINY | {"silos.num_silos": 12})
  return parts.clients(config).silos(tiny.people(), config.seed)


@pytest.mark.parametrize("head", ["cosface", "linear"])
@pytest.mark.parametrize("gone", [0, 5, 11])
def test_a_person_who_leaves_changes_no_other_start_of_a_class(gone, head):
  people = tiny.people()
  build_one = lambda train: build(tiny.sources()._replace(train=train), **{
      "algorithm": "fedpe", "model.head": head})
  starts = []
  for train in (people, compact(people.select(people.person != gone))):
    algorithm = build_one(train)
    rows = algorithm.class_embeddings(algorithm.init(jax.random.key(0)))
    starts.append({(int(owner), row.tobytes()) for owner, row in zip(
        rows.owner, np.asarray(rows.class_embeddings), strict=True) if owner >= 0})
  assert len(starts[0]) == 12 and len(starts[1]) == 11 and starts[1] < starts[0]


def test_what_summary_and_metrics_show_of_classes_is_named_as_not_covered():
  said = " ".join(build().not_covered)
  assert "histogram of the cosines" in said and "how far a correction moved" in said


def test_labels_of_a_silo_are_rows_of_the_table():
  """The class that a client numbers c is row offset + c of the table."""
  config = fedgc.base()
  config.update_from_flattened_dict(TINY)
  people, clients = tiny.people(), parts.clients(config)
  rows = class_rows(clients.silos(people, config.seed).silo, people.label, 3)
  cohort = clients.bind(people, config.seed, Work(1, 4, "own")).cohort(Draws.of(0), 0)
  for k, silo in enumerate(cohort.client):
    real = cohort.mask[k]
    table_row = rows.offset[silo] + cohort.labels[k][real]
    np.testing.assert_array_equal(rows.label[table_row],
                                  people.label[cohort.examples[k][real]])


@pytest.mark.parametrize("overrides, words", [
    ({"cohort.classes": "all"}, "algorithm=fedgc gives every silo a head for its own classes"),
    ({"correction.form": "hinge"}, "correction.form='hinge': expected one of as_written"),
    ({"correction.steps": 0}, "correction.steps=0: expected a whole number, at least 1"),
    ({"correction.block": 0}, "correction.block=0: expected a whole number, at least 1"),
    ({"model.head": "linear"}, "form 'calibrated': expected a normalised head"),
    ({"model.head": "normalised"}, "cannot be kept in a table of class embeddings"),
    ({"hparams.correction_strength": -1.0}, "hparams.correction_strength=-1.0: expected"),
    ({"hparams.correction_strength": float("inf")}, "hparams.correction_strength=inf: expected"),
    ({"hparams.proximal_weight": -5.0}, "hparams.proximal_weight=-5.0: expected"),
    ({"hparams.spreadout_margin": -3.0, "algorithm": "fedaws", "correction.form": "hinge"},
     "hparams.spreadout_margin=-3.0: expected"),
    ({"hparams.correction_learning_rate": -1.0}, "hparams.correction_learning_rate=-1.0: expected"),
    ({"cohort.sampling_probability": 0.5}, "sampling_probability=0.5 has no meaning with silos"),
    ({"hparams.average_decay": 0.5}, "hparams.average_decay: algorithm=fedgc has no"),
    ({"silos.num_silos": 13}, "silos.num_silos is 13; expected a whole number, 1 to 12"),
    ({"cohort.silos_per_round": 4}, "cohort.silos_per_round=4: expected 0 .all. to 3"),
    ({"local.drift": "momentum"}, "local.drift 'momentum' is not one of fedprox, none, scaffold"),
    ({"algorithm": "local_only", "cohort.only_silo": 3}, "cohort.only_silo=3: expected 0 to 2"),
])
def test_what_is_refused(overrides, words):
  with pytest.raises(ValueError, match=words):
    build(**overrides).init(jax.random.key(0))


def test_one_person_with_images_of_two_labels_in_two_silos_is_refused(tmp_path):
  """A client list puts a person with one client; a label shared by persons of two is refused."""
  people = dataclasses.replace(tiny.people(), label=tiny.people().label // 2)
  path = tmp_path / "clients.csv"
  path.write_text("person,client\n" + "".join(f"{p},{p % 2}\n" for p in range(12)))
  sources = tiny.sources()._replace(train=people)
  with pytest.raises(ValueError, match="held by several silos"):
    build(sources, **{"silos.by": "file", "silos.path": str(path)})


@pytest.mark.parametrize("name", ["fedpe", "fedgc"])
def test_a_silo_starts_from_its_own_means_once(name):
  """Without learning, rows are the silo's means after its first round, and stay them."""
  algorithm = build(algorithm=name, **{"model.head_init": "local_prototypes",
                                       "hparams.client_learning_rate": 0.0,
                                       "cohort.silos_per_round": 2})
  data, still = tiny.people(), {"correction_strength": 0.0}
  first = algorithm.init(jax.random.key(0))
  state, _ = run(algorithm, rounds=1, **still)
  rows = algorithm.class_embeddings(state)
  trained = np.flatnonzero(state.heads.trained)
  assert len(trained) == 2
  unit = np.asarray(algorithm.embed(first, data.images))
  means = np.stack([unit[data.label == k].mean(axis=0) for k in range(data.num_labels)])
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  found = np.asarray(rows.class_embeddings)
  moved = np.isin(rows.owner, trained)
  cosines = (found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)) @ means.T
  np.testing.assert_allclose(cosines[moved].max(axis=1), 1, atol=1e-5)
  assert (cosines[~moved & (np.asarray(rows.owner) >= 0)].max(axis=1) < 0.999).all()
  later, _ = run(algorithm, rounds=4, **still)
  assert later.heads.trained.all()
  again = np.asarray(algorithm.class_embeddings(later).class_embeddings)
  np.testing.assert_array_equal(again[moved], found[moved])


def test_an_unknown_start_of_class_embeddings_is_refused():
  with pytest.raises(ValueError, match="local_prototypes, prototypes, shared_frame"):
    build(**{"model.head_init": "per_client"})
