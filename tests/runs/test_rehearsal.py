"""What a rehearsal tries and on whom, without playing it."""

import json
import math

import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.federated.clients import Work
from fedjax_face.runs import candidates, rehearsal, rehearsal_plan
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.candidates import value_of
from fedjax_face.runs.config import flatten
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.runs.rehearsal_search import Search, Trial, in_words
from fedjax_face.runs.rehearsal_stage import _of_one_shape

CLIP_NORM, CLIENT_RATE = "method.aggregate.clip_norm", "method.local.learning_rate"
SERVER_RATE, EPOCHS = "method.server.learning_rate", "method.local.epochs"
MARGIN, MAX_EXAMPLES = "method.head.margin", "method.clients.max_examples"


def method(of=ff.dp_fedemb, clients=None, **changes):
  """Four clients of two people, whose mean update has noise of multiplier 2."""
  clients = {"per_round": 4, "users_per_client": 2, "max_examples": 8} | (clients or {})
  return of(**({
      "backbone": ff.lenet_small(embedding_dim=8), "head": ff.linear(),
      "clients": ff.virtual_clients(**clients),
      "local": ff.local_steps(learning_rate=0.02, epochs=1, batch_size=4, optimizer="sgd"),
      "aggregate": ff.gaussian(clip_norm=1.0, noise_multiplier=2.0),
      "server": ff.momentum(learning_rate=0.01)} | changes))


def asked(chosen=None, public=5, **changes):
  return Asked.of_arguments({
      "method": chosen or method(), "rounds": 6,
      "data": ff.synthetic_faces(people=8, evaluation=6, public=public),
      "start": ff.pretrain(ff.centralized(), rounds=2)} | changes)


def people(number, images=3):
  """A set whose pixels say who is on them."""
  person = np.repeat(np.arange(number, dtype=np.int32), images)
  pixels = np.broadcast_to(person[:, None, None, None], (len(person), 2, 2, 1)).astype(np.uint8)
  return FaceDataset("set", pixels, person, person)


@pytest.mark.parametrize("pretrains, sizes", [(True, (20, 12, 8)), (False, (0, 32, 8))])
def test_parts_share_nobody_and_leave_out_nobody(pretrains, sizes):
  parts = rehearsal_plan.divide(people(40), pretrains, seed=3)
  seen = [set() if part is None else set(part.images[:, 0, 0, 0].tolist()) for part in parts]
  assert tuple(map(len, seen)) == sizes
  assert set().union(*seen) == set(range(40)) and sum(sizes) == 40
  again, other = (rehearsal_plan.divide(people(40), pretrains, seed) for seed in (3, 4))
  np.testing.assert_array_equal(parts.judges.images, again.judges.images)
  assert not np.array_equal(parts.judges.images, other.judges.images)


def test_few_people_are_refused():
  with pytest.raises(ValueError, match="set has 19 people; a rehearsal needs at least 20"):
    rehearsal_plan.divide(people(19), True, 0)


@pytest.mark.parametrize("changes, message", [
    ({"public": 0}, "data: a rehearsal needs a public set"),
    ({"start": ff.pretrain(ff.centralized(), public=False)}, "start.public=False: a rehearsal"),
    ({"chosen": ff.centralized()}, "method=centralized cannot be rehearsed"),
    ({"chosen": ff.fedavg(clients=ff.silos())}, "with virtual clients and no silos"),
])
def test_what_cannot_be_rehearsed(changes, message):
  with pytest.raises(ValueError, match=message):
    rehearsal_plan.check(asked(**changes))


def test_sets_by_hand_without_a_public_one_are_refused():
  pixels = np.zeros((16, 4, 4, 1), np.uint8)
  data = ff.faces(pixels, np.repeat(np.arange(8), 2)).split(evaluation=0.4)
  with pytest.raises(ValueError, match="data: a rehearsal needs a public set"):
    rehearsal.rehearse(method(), data, rounds=2)


def test_noise_of_the_run_comes_from_its_numbers_of_people_and_keeps_its_ratio_in_a_small_mean():
  given = asked(method(aggregate=ff.gaussian()), privacy=ff.budget(epsilon=8.0, delta=1e-3))
  mesh = clients_mesh(jax.devices()[:1])
  plan = rehearsal_plan.planned(given, given.sources(), mesh, lambda z, epsilon: None)
  assert (plan.clients, plan.population, plan.rounds) == (4, 8, 6) and plan.noise_multiplier > 0.5
  own = rehearsal_plan.rehearsed(given, plan, people=7, devices=1)
  assert value_of(own.method, "method.clients.per_round") == 3 and own.privacy.epsilon is None
  # Noise on the mean over what is individual in it, which goes with one over the root of clients.
  ratio = lambda z, clients: (z / clients) / (1 / math.sqrt(clients))
  noise = value_of(own.method, "method.aggregate.noise_multiplier")
  assert ratio(noise, 3) == pytest.approx(ratio(plan.noise_multiplier, 4), rel=1e-12)
  assert given.privacy.epsilon == 8.0
  assert value_of(given.method, "method.clients.per_round") == 4
  with pytest.raises(ValueError, match="1 public people are left for the clients"):
    rehearsal_plan.rehearsed(given, plan, people=1, devices=1)


def test_noise_on_the_count_of_adaptive_clipping_is_lengthened_alike():
  """z = 4.4 of 64 clients is below twice the count's 0.05 * 64, and so it is of 16."""
  given = asked(method(clients={"per_round": 64}, aggregate=ff.adaptive(
      noise_multiplier=4.4, count_stddev_per_client=0.05)))
  plan = rehearsal_plan.Planned(4.4, 64, 5000, 6, 100)
  own = rehearsal_plan.rehearsed(given, plan, 32, 1).method
  assert value_of(own, "method.clients.per_round") == 16
  assert value_of(own, "method.aggregate.noise_multiplier") == pytest.approx(2.2)
  assert value_of(own, "method.aggregate.count_stddev_per_client") * 16 == pytest.approx(
      0.05 * 64 / 2)


def test_as_many_people_take_part_in_a_client_as_in_the_run():
  """Of 1000 people 40 in 4 clients: 10 in each. Of 60 people, in 4 clients, 40 again."""
  given = asked(method(clients={"sampling": ff.samplings.poisson(probability=0.04)}))
  plan = rehearsal_plan.Planned(2.0, 4, 1000, 6, 100)
  own = lambda people: rehearsal_plan.rehearsed(given, plan, people, 1).method
  assert value_of(own(60), "method.clients.sampling.probability") == pytest.approx(40 / 60)
  assert value_of(own(8), "method.clients.sampling.probability") == 1.0


def test_groups_that_take_turns_have_people_of_their_own():
  chosen = method(clients={"sampling": ff.samplings.cyclic_fixed(min_separation=4)})
  plan = rehearsal_plan.Planned(1.0, 4, 8, 6, 100)
  assert rehearsal_plan.groups(chosen) == 4 and rehearsal_plan.groups(method()) == 1
  own = rehearsal_plan.rehearsed(asked(chosen), plan, 16, 1).method
  assert value_of(own, "method.clients.per_round") == 2
  with pytest.raises(ValueError, match="15 public people .* at least 16, for 2 client.s. of"):
    rehearsal_plan.rehearsed(asked(chosen), plan, 15, 2)


def test_parameters_are_those_of_the_run_whose_head_may_be_larger():
  parameters = []
  for of in (ff.dp_fedemb, ff.fedavg):
    given = asked(method(of))
    sources = given.sources()
    plan = rehearsal_plan.planned(given, sources, clients_mesh(jax.devices()[:1]), lambda *_: None)
    parameters.append(plan.parameters)
  assert parameters[1] - parameters[0] == sources.train.num_labels * 8


def test_without_noise_there_is_no_clip_norm_to_choose():
  chosen = method(aggregate=ff.mean())
  plan = rehearsal_plan.Planned(0.0, 4, 8, 6, 100)
  own = rehearsal_plan.rehearsed(asked(chosen), plan, 8, 1).method
  assert value_of(own, "method.aggregate.noise_multiplier") is None
  drawn = candidates.draw(chosen, 6, np.random.default_rng(0))
  assert not any(CLIP_NORM in c.values or c.quantile for c in drawn)
  assert math.isinf(candidates.step_unit(0.1, 0.0, 6))
  assert candidates.resolved(drawn[1], None, math.inf, chosen)[SERVER_RATE] == pytest.approx(
      0.1 * drawn[1].step)


def test_a_clip_norm_that_follows_the_updates_is_not_chosen():
  drawn = candidates.draw(method(aggregate=ff.adaptive(clip_norm=2.0, noise_multiplier=1.0)), 6,
                          np.random.default_rng(0))
  assert not any(CLIP_NORM in c.values or c.quantile for c in drawn)
  values = candidates.resolved(candidates.Candidate({}, step=1.0), None, 0.6, method(
      aggregate=ff.adaptive(clip_norm=2.0, noise_multiplier=1.0)))
  assert values == {SERVER_RATE: pytest.approx(0.6 / 2 * 0.1)}


@pytest.mark.parametrize("server", [ff.adam(), ff.averaging()])
def test_a_server_rate_is_chosen_where_it_is_a_factor_on_the_mean_update(server):
  drawn = candidates.draw(method(server=server), 6, np.random.default_rng(0))
  assert not any(SERVER_RATE in c.values or c.step for c in drawn)


def test_candidates_are_the_method_and_every_level_equally_often():
  first, *others = candidates.draw(method(), 16, np.random.default_rng(0))
  flat = flatten(asked().record)
  assert first.values == {path: flat[path] for path in first.values}
  assert set(first.values) == {CLIENT_RATE, CLIP_NORM, SERVER_RATE, EPOCHS, MAX_EXAMPLES}
  rates = [c.values[CLIENT_RATE] for c in others]
  assert {rate: rates.count(rate) for rate in rates} == dict.fromkeys(
      (0.005, 0.01, 0.02, 0.04, 0.08), 3)
  assert all([c.quantile for c in others].count(q) == 3 for q in candidates.QUANTILES)
  assert not any(MARGIN in c.values for c in others)
  assert [c.values[MAX_EXAMPLES] for c in others] == [8 * c.values[EPOCHS] for c in others]


def test_a_candidate_is_a_method():
  drawn = candidates.draw(method(), 3, np.random.default_rng(0))[1]
  values = candidates.resolved(drawn, np.array([0.5]), math.inf, method())
  other = candidates.with_values(method(), values)
  assert {path: value_of(other, path) for path in values} == values
  assert value_of(other, "method.aggregate.noise_multiplier") == 2.0
  assert in_words({CLIP_NORM: 0.5, EPOCHS: 2}) == "aggregate clip norm 0.5, local epochs 2"


def test_margin_is_chosen_where_the_head_has_one():
  margins = {c.values[MARGIN] for c in candidates.draw(
      method(head=ff.cosface(margin=0.3)), 11, np.random.default_rng(0))}
  assert margins == {0.0, 0.1, 0.2, 0.3, 0.35}


def test_clip_norm_and_server_rate_by_hand():
  """Norms 1..5, median 3; the noise lets a step of .6 / 3 = .2 be; half of it, momentum .9: .01."""
  candidate = candidates.Candidate({EPOCHS: 1}, quantile=0.5, step=0.5)
  assert candidates.resolved(candidate, np.arange(1.0, 6.0), 0.6, method()) == {
      EPOCHS: 1, CLIP_NORM: 3.0, SERVER_RATE: 0.01}
  without_noise = candidates.resolved(candidate, np.arange(1.0, 6.0), math.inf, method())
  assert without_noise[SERVER_RATE] == pytest.approx(0.05)
  # A weight of .02, over noise of .05 on the mean, in 16 rounds: .02 / (.05 * 4).
  assert candidates.step_unit(0.02, 0.05, 16) == pytest.approx(0.1)


def test_cohorts_of_all_epochs_have_one_shape_and_no_other_examples():
  dataset, clients = people(8), ff.virtual_clients(per_round=4, users_per_client=2)
  made = {epochs: clients.bind(dataset, 0, Work(epochs, 4, "all")).cohort for epochs in (1, 3)}
  for epochs, cohort in _of_one_shape(made).items():
    padded = cohort(Draws.of(1), 0)
    plain = made[epochs](Draws.of(1), 0)
    assert padded.mask.shape == (4, 5, 4) and padded.mask.sum() == plain.mask.sum()
    np.testing.assert_array_equal(padded.examples[padded.mask], plain.examples[plain.mask])


class Toy:
  """A stage on which the score is the number of the candidate times the rounds."""

  start, seconds_per_round = (0.0, 0), 1e-9

  def __init__(self):
    self.played, self.evaluator = [], self

  def play(self, values, state, start, stop, stream):
    assert state[1] == start
    self.played.append((values["x"], start, stop, stream))
    return values["x"] * stop + 0.1 * stream, stop

  def values(self, state):
    return {"accuracy": state[0], "lfw_view2/eer": state[0]}


def search(metric="accuracy", count=16, **options):
  stage = Toy()
  trials = [Trial(n, candidates.Candidate({"x": n})) for n in range(count)]
  found = Search(stage, metric, math.inf, None, lambda line: None).run(trials, 36, 2, **options)
  return found, stage.played


def test_halving_goes_on_with_the_best_and_repeats_the_finalists():
  (first, second), played = search()
  assert (first.number, second.number) == (15, 14)
  assert played[:16] == [(n, 0, 12, 0) for n in range(16)]
  assert played[16:22] == [(n, 12, 24, 0) for n in (15, 14, 13, 12, 11, 10)]
  assert played[22:] == [(15, 24, 36, 0), (14, 24, 36, 0), (15, 0, 36, 1), (14, 0, 36, 1)]
  assert first.last == pytest.approx([540, 540.1])


def test_an_error_rate_is_better_when_lower():
  (first, second), _ = search("lfw_view2/eer")
  assert (first.number, second.number) == (0, 1)


def test_out_of_time_the_first_two_still_play():
  found, played = search(minutes=1e-9)
  assert {number for number, *_ in played} == {0, 1} and found[0].rounds == 24


@pytest.mark.parametrize("count", [1, 2])
def test_few_settings_have_no_heats_and_need_no_timing(monkeypatch, count):
  monkeypatch.setattr(Toy, "seconds_per_round", 0.0)
  found, played = search(count=count, minutes=1.0)
  assert len(found) == count and all(start == 0 for _, start, _, _ in played)


def test_a_diverged_setting_goes_no_further(monkeypatch):
  monkeypatch.setattr(Toy, "values", lambda self, state: {
      "accuracy": state[0] if self.played[-1][0] < 10 else math.nan})
  found, played = search()
  assert (found[0].number, found[1].number) == (9, 8)
  assert all(stop == 12 for number, _, stop, _ in played if number >= 10)
  monkeypatch.setattr(Toy, "values", lambda self, state: {})
  with pytest.raises(ValueError, match="diverged; lower method.local.learning_rate"):
    search()


SAID = {"method": {"name": "dp_fedemb", "aggregate": {"noise_multiplier": 2.0},
                   "local": {"learning_rate": 0.05}},
        "data": {"name": "synthetic_faces", "people": 8, "public": 24}, "rounds": 6,
        "start": {"name": "pretrain", "method": "centralized"}}


def written(place, **values):
  path = place / "rehearsal.json"
  path.write_text(json.dumps({"overrides": values, "rehearsal": rehearsal.section(
      "set", 24, 5, values)}))
  return path


def test_what_was_chosen_is_put_into_a_config_which_says_so(tmp_path):
  path = written(tmp_path, **{CLIENT_RATE: 0.2, CLIP_NORM: 1.0, EPOCHS: 2})
  config = rehearsal.applied(SAID, path, ["--config.rounds=7"])
  given = Asked.of_config(config)
  assert [value_of(given.method, name) for name in (CLIENT_RATE, CLIP_NORM, EPOCHS)] == [0.2, 1, 2]
  assert value_of(given.method, "method.aggregate.noise_multiplier") == 2.0
  assert given.rehearsal.people == 24 and given.rehearsal.chose[1] == f"{CLIP_NORM}=1.0"
  assert SAID["method"]["local"] == {"learning_rate": 0.05} and "rehearsal" not in SAID
  alone = Asked.of_config(SAID)
  assert given.record["start"] == alone.record["start"]
  config["method"]["aggregate"]["clip_norm"] = 2.0
  with pytest.raises(ValueError, match=f"{CLIP_NORM}=2.0, but rehearsal.chose says 1.0"):
    Asked.of_config(config)


def test_a_value_is_said_once(tmp_path):
  path = written(tmp_path, **{CLIP_NORM: 1.0})
  with pytest.raises(ValueError, match="gives method.aggregate.clip_norm as well; leave one out"):
    rehearsal.applied(SAID, path, [f"--config.{CLIP_NORM}=3"])


@pytest.mark.parametrize("values, message", [
    ({"method.aggregate.clip_nrm": 1.0}, "takes no clip_nrm .did you mean clip_norm"),
    ({MARGIN: -1.0}, r"method.head.margin=-1.0: expected a number in \[0, 2\]")])
def test_overrides_of_another_config_are_refused(tmp_path, values, message):
  with pytest.raises(ValueError, match=message):
    Asked.of_config(rehearsal.applied(SAID, written(tmp_path, **values)))


@pytest.mark.parametrize("text", ["{", "{}", '{"overrides": {}}', "[]", '{"overrides": 3}'])
def test_another_file_is_refused(tmp_path, text):
  (tmp_path / "other.json").write_text(text)
  with pytest.raises(ValueError, match="other.json: not what a rehearsal writes"):
    rehearsal.applied(SAID, tmp_path / "other.json")
