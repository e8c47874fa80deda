"""Methods for silos: equalities between them, what they release, what they refuse."""

import dataclasses

import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data.dataset import compact
from fedjax_face.draws import Draws
from fedjax_face.federated.clients import Work
from fedjax_face.federated.head_life import SERVER_SEES_CLASSES
from fedjax_face.federated.silo_people import class_rows
from fedjax_face.privacy.ledger import is_non_private
from tests.methods import tiny
from tests.methods.tiny import fedaws, fedgc, fedpe, run, silos

SCAFFOLD = ff.replace(tiny.SILO_LOCAL, drift=ff.drifts.scaffold())
FORMS = {
    "calibrated": fedgc(),
    "as_written": fedgc(correction=ff.gradient_correction(form="as_written", block=5)),
    "cosine": fedaws(correction=ff.spreadout(form="cosine", block=5)),
    "hinge": fedaws(),
}


def bound(method, train=None, rounds=2, **setting):
  return tiny.bound(method, train, rounds, **setting)


def strength(number):
  """The hparams in which a correction is so strong."""
  return {"correction": {"strength": number}}


@pytest.mark.parametrize("form", FORMS)
def test_without_strength_every_correction_is_fedpe(form):
  expected, _ = run(bound(fedpe()), 2)
  state, metrics = run(bound(FORMS[form]), 2, **strength(0.0))
  jax.tree.map(np.testing.assert_array_equal, expected, state)
  assert metrics["correction_norm"] == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_single_silo_is_never_corrected(form):
  algorithm = bound(ff.replace(FORMS[form], clients=silos(1)))
  _, metrics = run(algorithm, 2, **strength(10.0))
  assert metrics["correction_norm"] == 0


def test_correction_moves_class_embeddings_and_through_them_the_backbone():
  pe, _ = run(bound(fedpe()), 3)
  gc, metrics = run(bound(fedgc()), 3, **strength(10.0))
  assert metrics["correction_norm"] > 0
  assert not np.allclose(pe.heads.class_embeddings, gc.heads.class_embeddings)
  different = jax.tree.map(lambda a, b: not np.array_equal(a, b), pe.params, gc.params)
  assert any(jax.tree.leaves(different))


def test_linear_heads_are_corrected_with_their_self_term():
  """Columns of the whole gradient add up to zero, so the sum over all classes stays."""
  algorithm = bound(ff.replace(FORMS["as_written"], head=ff.linear()))
  before = run(algorithm, **strength(0.0))[0].heads.class_embeddings
  after = run(algorithm, **strength(1.0))[0].heads.class_embeddings
  assert np.abs(after - before).max() > 1e-4
  np.testing.assert_allclose(after.sum(axis=0), before.sum(axis=0), atol=1e-5)


def test_class_embeddings_are_those_of_the_silos():
  algorithm = bound(fedgc(clients=ff.silos(
      partition=ff.partitions.dirichlet(num_silos=3, concentration=0.5))))
  state, _ = run(algorithm, 2)
  rows = algorithm.class_embeddings(state)
  assert rows.class_embeddings.shape == (64, 8)
  assert np.bincount(rows.owner + 1).tolist()[0] == 52 and rows.owner.max() == 2
  assert np.isfinite(rows.class_embeddings).all()


def test_fedpe_sends_the_backbone_alone_and_fedgc_the_class_embeddings_too():
  pe, gc = bound(fedpe()), bound(fedgc())
  state = tiny.start(pe)
  backbone = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
  assert tuple(pe.communication(state)) == (backbone,) * 4
  mean, largest = backbone + 4 * 8 * 4, backbone + 5 * 8 * 4  # silos of 5, 5 and 2 people
  assert tuple(gc.communication(state)) == (mean, mean + 4, largest, largest + 4)


def test_what_the_server_and_other_silos_see_is_on_the_ledger():
  channels = lambda algorithm: [release.channel for release in algorithm.releases]
  assert channels(bound(fedpe())) == ["backbone"]
  assert channels(bound(fedgc())) == ["backbone", "class embeddings", "corrections"]
  assert SERVER_SEES_CLASSES in bound(fedaws()).releases


@pytest.mark.parametrize("method", [fedpe(), fedgc()], ids=["fedpe", "fedgc"])
@pytest.mark.parametrize("drift", [ff.drifts.fedprox(weight=5.0), ff.drifts.scaffold()],
                         ids=["fedprox", "scaffold"])
def test_drift_is_a_choice_of_every_method(method, drift):
  plain, _ = run(bound(method), 2)
  state, metrics = run(bound(ff.replace(
      method, local=ff.replace(tiny.SILO_LOCAL, drift=drift))), 2)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), plain.params, state.params)
  assert max(jax.tree.leaves(moved)) > 0 and np.isfinite(metrics["loss"])


def test_shared_head_over_silos():
  state, _ = run(bound(ff.fedavg(**tiny.SILO_PARTS | {"aggregate": ff.mean()})), 2)
  assert state.params["head"]["params"]["class_embeddings"].shape == (12, 8)


def local_only(clients=None, **changes):
  parts = {name: part for name, part in tiny.SILO_PARTS.items() if name != "server"}
  return ff.local_only(**parts | {"clients": clients or silos(), "steps": 3} | changes)


def test_local_only_trains_on_one_silo():
  algorithm = bound(local_only(only_silo=0))
  cohort = algorithm.cohort(Draws.of(0), 0)
  seen = set(tiny.people().person[cohort.examples].ravel().tolist())
  assert algorithm.population == 5 and seen <= set(range(12)) and len(seen) <= 5
  assert cohort.labels.max() < 5 and (cohort.num_classes == 5).all()
  run(algorithm)


def people_of_twelve_silos():
  """How many people each of twelve random silos holds."""
  return np.bincount(silos(12).silos(tiny.people(), 0).silo[::4], minlength=12)


def test_a_silo_without_people_cannot_train_alone():
  with pytest.raises(ValueError, match="that silo holds nobody; expected one with people"):
    bound(local_only(silos(12), only_silo=int(people_of_twelve_silos().argmin())))


def test_some_silos_a_round():
  algorithm = bound(fedgc(clients=silos(per_round=2)))
  cohort = algorithm.cohort(Draws.of(0), 0)
  assert len(set(cohort.client.tolist())) == 2 and (cohort.client >= 0).all()
  absent = ({0, 1, 2} - set(cohort.client.tolist())).pop()
  start = tiny.start(algorithm).heads.class_embeddings
  state, _ = run(algorithm, **strength(0.0))
  after, owner = state.heads.class_embeddings, algorithm.class_embeddings(state).owner
  np.testing.assert_array_equal(after[owner == absent], start[owner == absent])
  assert all((after[owner == k] != start[owner == k]).any() for k in cohort.client)


def test_an_update_that_is_not_finite_leaves_its_silo_as_it_was():
  """A learning rate of infinity: every update is NaN, and nothing changes."""
  algorithm = bound(fedgc(local=SCAFFOLD))
  start = tiny.start(algorithm)
  state, metrics = run(algorithm, local={"learning_rate": np.inf}, **strength(0.0))
  assert metrics["clients_not_finite"] == 3
  jax.tree.map(np.testing.assert_array_equal, start.heads, state.heads)
  jax.tree.map(np.testing.assert_array_equal, start.clients, state.clients)


def test_control_variates_are_on_the_ledger_even_where_the_update_is_noised():
  noised = ff.gaussian(clip_norm=1.0, noise_multiplier=20.0)
  plain = bound(fedpe(aggregate=noised))
  assert [release.channel for release in plain.releases] == ["backbone"]
  assert plain.releases[0].event.noise_multiplier == 10  # of four people a silo: sensitivity 2C
  algorithm = bound(fedpe(aggregate=noised, local=SCAFFOLD))
  assert [release.channel for release in algorithm.releases] == ["backbone", "control variates"]
  assert is_non_private(algorithm.releases[1].event)


@pytest.mark.parametrize("num_silos", [3, 12])
def test_dp_fedemb_over_silos_is_accounted_at_twice_the_clip_norm(num_silos):
  """Several people in a silo, or one who is replaced: either moves the sum by 2C."""
  algorithm = bound(ff.dp_fedemb(**tiny.SILO_PARTS | {
      "start_head": "shared_frame", "clients": silos(num_silos),
      "aggregate": ff.gaussian(clip_norm=1.0, noise_multiplier=3.0)}))
  (release,) = algorithm.releases
  assert (release.unit, release.event.noise_multiplier) == ("person", 1.5)
  assert any("numbers of images" in sentence for sentence in algorithm.not_covered)
  run(algorithm)


def test_a_silo_with_one_class_is_noted():
  assert len(bound(fedgc()).notes) == 1
  held = people_of_twelve_silos()
  empty, single, _ = bound(fedgc(clients=silos(12))).notes
  assert empty.startswith(f"{(held == 0).sum()} of 12 silos hold nobody")
  assert single.startswith(f"{(held == 1).sum()} of 12 silos hold a single class")


@pytest.mark.parametrize("head", [tiny.SILO_PARTS["head"], ff.linear()], ids=["cosface", "linear"])
@pytest.mark.parametrize("gone", [0, 5, 11])
def test_a_person_who_leaves_changes_no_other_start_of_a_class(gone, head):
  people, starts = tiny.people(), []
  for train in (people, compact(people.select(people.person != gone))):
    algorithm = bound(fedpe(head=head), train)
    rows = algorithm.class_embeddings(tiny.start(algorithm))
    starts.append({(int(owner), row.tobytes()) for owner, row in zip(
        rows.owner, np.asarray(rows.class_embeddings), strict=True) if owner >= 0})
  assert len(starts[0]) == 12 and len(starts[1]) == 11 and starts[1] < starts[0]


def test_what_summary_and_metrics_show_of_classes_is_named_as_not_covered():
  said = " ".join(bound(fedgc()).not_covered)
  assert "histogram of the cosines" in said and "how far a correction moved" in said


def test_labels_of_a_silo_are_rows_of_the_table():
  """The class that a client numbers c is row offset + c of the table."""
  people, clients = tiny.people(), silos()
  rows = class_rows(clients.silos(people, 0).silo, people.label, 3)
  cohort = clients.bind(people, 0, Work(1, 4, "own")).cohort(Draws.of(0), 0)
  for k, silo in enumerate(cohort.client):
    real = cohort.mask[k]
    table_row = rows.offset[silo] + cohort.labels[k][real]
    np.testing.assert_array_equal(rows.label[table_row],
                                  people.label[cohort.examples[k][real]])


@pytest.mark.parametrize("make, words", [
    (lambda: fedgc(classes="all"), "fedgc takes no classes"),
    (lambda: ff.spreadout(form="as_written"), "spreadout.form='as_written': expected one of hinge"),
    (lambda: ff.gradient_correction(steps=0), "steps=0: expected a whole number, at least 1"),
    (lambda: ff.gradient_correction(block=0), "block=0: expected a whole number, at least 1"),
    (lambda: ff.gradient_correction(strength=-1.0), "strength=-1.0: expected a number, at least 0"),
    (lambda: ff.gradient_correction(strength=np.inf), "strength=inf: expected a number, at least"),
    (lambda: ff.gradient_correction(learning_rate=-1.0), "learning_rate=-1.0: expected a number"),
    (lambda: ff.spreadout(margin=-3.0), "spreadout.margin=-3.0: expected a number, at least 0"),
    (lambda: silos(probability=0.5), "silos takes no probability"),
    (lambda: fedgc(start_head="per_client"), "public_prototypes, local_prototypes"),
])
def test_what_is_refused_when_it_is_made(make, words):
  with pytest.raises(ff.OptionError, match=words):
    make()


@pytest.mark.parametrize("changes, words", [
    ({"head": ff.linear()}, "form 'calibrated': expected a normalised head"),
    ({"head": ff.normalised()}, "cannot be kept in a table of class embeddings"),
    ({"clients": silos(13)}, "num_silos is 13; expected a whole number, 1 to 12"),
    ({"clients": silos(per_round=4)}, r"clients.per_round=4: expected 0 \(all\) to 3"),
], ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_what_is_refused_of_these_people(changes, words):
  with pytest.raises(ValueError, match=words):
    tiny.start(bound(fedgc(**changes)))


def test_one_person_with_images_of_two_labels_in_two_silos_is_refused(tmp_path):
  """A client list puts a person with one client; a label shared by persons of two is refused."""
  people = dataclasses.replace(tiny.people(), label=tiny.people().label // 2)
  path = tmp_path / "clients.csv"
  path.write_text("person,client\n" + "".join(f"{p},{p % 2}\n" for p in range(12)))
  with pytest.raises(ValueError, match="held by several silos"):
    bound(fedgc(clients=ff.silos(partition=ff.partitions.by_file(path=str(path)))), people)


@pytest.mark.parametrize("method, still", [(fedpe, {}), (fedgc, strength(0.0))],
                         ids=["fedpe", "fedgc"])
def test_a_silo_starts_from_its_own_means_once(method, still):
  """Without learning, rows are the silo's means after its first round, and stay them."""
  algorithm = bound(method(
      start_head="local_prototypes", clients=silos(per_round=2),
      local=ff.replace(tiny.SILO_LOCAL, learning_rate=0.0)))
  data, first = tiny.people(), tiny.start(algorithm)
  state, *_, later = [state for state, _ in tiny.steps(algorithm, 4, **still)]
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
  assert later.heads.trained.all()
  again = np.asarray(algorithm.class_embeddings(later).class_embeddings)
  np.testing.assert_array_equal(again[moved], found[moved])
