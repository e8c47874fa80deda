"""What a rehearsal tries and on whom, without playing it."""

import math

import jax
import numpy as np
import pytest

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.training import candidates, config, experiment, rehearsal, rehearsal_plan
from fedjax_face.training.mesh import clients_mesh
from fedjax_face.training.rehearsal_search import Search, Trial
from fedjax_face.training.rehearsal_stage import _of_one_shape
from tests.experiments import tiny_config
from tests.training.test_config import changed


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
    ({"data__public": None}, "a rehearsal needs data.public"),
    ({"pretrain__public": False}, "pretrain.public does not declare"),
    ({"algorithm": "centralized"}, "algorithm=centralized cannot be rehearsed"),
])
def test_what_cannot_be_rehearsed(changes, message):
  given = tiny_config.get_config("pretrain")
  for name, value in changes.items():
    given.update_from_flattened_dict({name.replace("__", "."): value})
  with pytest.raises(ValueError, match=message):
    rehearsal_plan.check(given)


def test_noise_of_the_run_comes_from_its_numbers_of_people_and_keeps_its_ratio_in_a_small_mean():
  given = tiny_config.get_config("pretrain")
  given.update_from_flattened_dict({"privacy.epsilon": 8.0, "hparams.noise_multiplier": None})
  sources = experiment.load_sources(given)
  mesh = clients_mesh(jax.devices()[:1])
  plan = rehearsal_plan.planned(given, sources, mesh, lambda z, epsilon: None)
  assert (plan.clients, plan.population, plan.rounds) == (4, 8, 6) and plan.noise_multiplier > 0.5
  own = rehearsal_plan.rehearsal_config(given, plan, people=7, devices=1)
  assert own.cohort.virtual_clients == 3 and own.privacy.epsilon is None
  # Noise on the mean over what is individual in it, which goes with one over the root of clients.
  ratio = lambda z, clients: (z / clients) / (1 / math.sqrt(clients))
  assert ratio(own.hparams.noise_multiplier, 3) == pytest.approx(
      ratio(plan.noise_multiplier, 4), rel=1e-12)
  assert given.privacy.epsilon == 8.0 and given.cohort.virtual_clients == 4
  with pytest.raises(ValueError, match="1 public people are left for the clients"):
    rehearsal_plan.rehearsal_config(given, plan, people=1, devices=1)


def test_noise_on_the_count_of_adaptive_clipping_is_lengthened_alike():
  """z = 4.4 of 64 clients is below twice the count's 0.05 * 64, and so it is of 16."""
  given = changed(privacy__aggregator="adaptive", cohort__virtual_clients=64,
                  cohort__users_per_client=2)
  plan = rehearsal_plan.Planned(4.4, 64, 5000, 6, 100)
  own = rehearsal_plan.rehearsal_config(given, plan, 32, 1)
  assert own.cohort.virtual_clients == 16
  assert own.hparams.noise_multiplier == pytest.approx(2.2)
  assert own.privacy.count_stddev_per_client * 16 == pytest.approx(
      given.privacy.count_stddev_per_client * 64 / 2)


def test_groups_that_take_turns_have_people_of_their_own():
  given = changed(cohort__sampling="cyclic_fixed", cohort__min_separation=4,
                  cohort__virtual_clients=4, cohort__users_per_client=2)
  plan = rehearsal_plan.Planned(1.0, 4, 8, 6, 100)
  assert rehearsal_plan.groups(given) == 4 and rehearsal_plan.groups(changed()) == 1
  assert rehearsal_plan.rehearsal_config(given, plan, 16, 1).cohort.virtual_clients == 2
  with pytest.raises(ValueError, match="15 public people .* at least 16, for 2 client.s. of"):
    rehearsal_plan.rehearsal_config(given, plan, 15, 2)


def test_parameters_are_those_of_the_run_whose_head_may_be_larger():
  given = tiny_config.get_config("pretrain")
  sources = experiment.load_sources(given)
  parameters = []
  for name in ("dp_fedemb", "fedavg"):
    given.algorithm = name
    plan = rehearsal_plan.planned(given, sources, clients_mesh(jax.devices()[:1]), lambda *_: None)
    parameters.append(plan.parameters)
  assert parameters[1] - parameters[0] == sources.train.num_labels * given.model.embedding_dim


def test_without_noise_there_is_no_clip_norm_to_choose():
  given = changed(privacy__aggregator="mean", hparams__noise_multiplier=None)
  plan = rehearsal_plan.Planned(0.0, 4, 8, 6, 100)
  assert rehearsal_plan.rehearsal_config(given, plan, 8, 1).hparams.noise_multiplier is None
  drawn = candidates.draw(given, 6, np.random.default_rng(0))
  assert not any("hparams.clip_norm" in c.values or c.quantile for c in drawn)
  assert math.isinf(candidates.step_unit(0.1, 0.0, 6))


def test_candidates_are_the_config_and_every_level_equally_often():
  given = changed(hparams__client_learning_rate=0.02)
  first, *others = candidates.draw(given, 16, np.random.default_rng(0))
  flat = config.flatten(given)
  assert first.values == {name: flat[name] for name in first.values}
  assert {"hparams.clip_norm", "hparams.server_learning_rate", "cohort.epochs"} < set(first.values)
  rates = [c.values["hparams.client_learning_rate"] for c in others]
  assert {rate: rates.count(rate) for rate in rates} == dict.fromkeys(
      (0.005, 0.01, 0.02, 0.04, 0.08), 3)
  assert all([c.quantile for c in others].count(q) == 3 for q in candidates.QUANTILES)
  assert not any("hparams.margin" in c.values for c in others)
  assert [c.values["cohort.max_examples"] for c in others] == [
      8 * c.values["cohort.epochs"] for c in others]


def test_margin_is_chosen_where_the_head_has_one():
  given = changed(model__head="cosface", hparams__margin=0.3, hparams__scale=16.0)
  margins = {c.values["hparams.margin"] for c in candidates.draw(
      given, 11, np.random.default_rng(0))}
  assert margins == {0.0, 0.1, 0.2, 0.3, 0.35}


def test_clip_norm_and_server_rate_by_hand():
  """Norms 1..5, median 3; the noise lets a step of .6 / 3 = .2 be; half of it, momentum .9: .01."""
  candidate = candidates.Candidate({"cohort.epochs": 1}, quantile=0.5, step=0.5)
  hparams = {"server_momentum": 0.9, "clip_norm": 1.0}
  assert candidates.resolved(candidate, np.arange(1.0, 6.0), 0.6, hparams) == {
      "cohort.epochs": 1, "hparams.clip_norm": 3.0, "hparams.server_learning_rate": 0.01}
  without_noise = candidates.resolved(candidate, np.arange(1.0, 6.0), math.inf, hparams)
  assert without_noise["hparams.server_learning_rate"] == pytest.approx(0.05)
  # A weight of .02, over noise of .05 on the mean, in 16 rounds: .02 / (.05 * 4).
  assert candidates.step_unit(0.02, 0.05, 16) == pytest.approx(0.1)


def test_cohorts_of_all_epochs_have_one_shape_and_no_other_examples():
  from tests.federated.schemes import participation
  dataset, made = people(8), {}
  for epochs in (1, 3):
    options = tiny_config.get_config().cohort.to_dict() | {"epochs": epochs, "max_examples": 0}
    made[epochs] = participation(options, dataset).cohort
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
  found = Search(stage, metric, math.inf, {}, lambda line: None).run(trials, 36, 2, **options)
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
  with pytest.raises(ValueError, match="diverged; lower hparams.client_learning_rate"):
    search()


def test_pretraining_keeps_the_values_that_a_rehearsal_changed():
  given = tiny_config.get_config("pretrain")
  found = rehearsal.overrides(given, "set", 24, 5, {"hparams.client_learning_rate": 0.2,
                                                    "hparams.clip_norm": 1.0})
  assert found["pretrain.hparams.client_learning_rate"] == 0.05
  assert "pretrain.hparams.clip_norm" not in found
  config.override(given, found)
  assert given.pretrain.hparams.client_learning_rate == 0.05
  assert given.hparams.client_learning_rate == 0.2 and given.rehearsal.people == 24
  config.validate(given)
  given.hparams.clip_norm = 2.0
  with pytest.raises(ValueError, match=r"config.hparams.clip_norm=2.0, but rehearsal.chose says 1"):
    config.validate(given)


def test_overrides_of_another_config_are_refused():
  with pytest.raises(ValueError, match="config has no hparams.clip_nrm .did you mean"):
    config.override(tiny_config.get_config(), {"hparams.clip_nrm": 1.0})
