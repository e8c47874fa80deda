"""Each trouble is one line with the key to change, once; a healthy run says nothing; a run in which
no update is finite stops.
"""

import json
import math

import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.privacy import planning
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs import fit, health
from fedjax_face.runs.asked import Asked, changed
from fedjax_face.runs.health import NoFiniteUpdate, Setting, Watch
from tests.experiments import tiny_call
from tests.methods import tiny

CHANCE = math.log(10)
HPARAMS = {"local.learning_rate": 0.01, "local.head_learning_rate_scale": 10.0,
           "server.learning_rate": 0.5, "aggregate.clip_norm": 1.0,
           "aggregate.noise_multiplier": 0.1}
SETTING = Setting(HPARAMS, rounds=40, noise_norm=0.5)


def rows(losses, start=1, **columns):
  """Rounds of a federated run; a column is a value or one for each round."""
  healthy = {"chance_loss": CHANCE, "accuracy": 0.3, "cosine": 0.2, "examples": 64.0,
             "clients": 8.0, "clients_not_finite": 0.0, "update_norm": 1.2,
             "clipped_fraction": 0.6, "signal_to_noise": 1.5}
  spread = {name: np.broadcast_to(value, len(losses))
            for name, value in (healthy | columns).items()}
  return [(start + i, {"loss": float(loss)} | {n: float(v[i]) for n, v in spread.items()})
          for i, loss in enumerate(losses)]


def falling(rounds=10):
  return np.linspace(2.2, 1.5, rounds)


def said(given, setting=SETTING, per_dispatch=5):
  watch = Watch(setting)
  return [line for first in range(0, len(given), per_dispatch)
          for line in watch.after(given[first:first + per_dispatch])]


def only_line(given, setting=SETTING):
  lines = said(given, setting)
  assert len(lines) == 1 and "\n" not in lines[0], lines
  return lines[0]


def test_a_healthy_run_says_nothing():
  assert said(rows(falling(40))) == []
  noisy = falling(40) + 0.05 * np.random.default_rng(0).normal(size=40)
  assert said(rows(noisy)) == []


def test_a_loss_above_chance_names_the_local_rates_once():
  line = only_line(rows([3.0] * 40))
  assert "loss 3 is not below chance (ln of the classes: 2.3) in rounds 1-10" in line
  assert line.endswith("lower method.local.learning_rate (0.01) or "
                       "method.local.head_learning_rate_scale (10)")


def test_a_loss_at_chance_asks_for_other_rates():
  assert "nothing is learned; try a tenth and ten times of method.local" in only_line(
      rows([CHANCE + 0.01] * 40))


def test_a_loss_that_starts_above_chance_and_falls_is_fine():
  assert said(rows(np.linspace(6.0, 2.4, 40))) == []


def test_a_margin_head_is_compared_with_what_it_gives_an_unknowing_embedding():
  margin = SETTING._replace(margin=1.6)
  assert said(rows([3.0] * 40), margin) == []
  assert "ln of the classes + the head's margin: 3.9" in only_line(rows([5.0] * 40), margin)


def test_a_run_too_short_for_a_trend_is_not_judged_by_one():
  assert said(rows([3.0] * 5), SETTING._replace(rounds=5)) == []


def test_a_rising_loss_names_the_servers_rate_and_is_repeated_when_it_doubles():
  rising = np.repeat([0.5, 0.6, 0.7, 1.0, 1.4], 8)
  lines = said(rows(rising))
  assert len(lines) == 2
  assert all("loss rises from" in line and "lower method.server.learning_rate (0.5) or method.l"
             in line and "raise method.clients.per_round" in line for line in lines)


def test_one_odd_round_is_no_rise():
  losses = falling(40)
  losses[[9, 25]] = 30.0
  assert said(rows(losses)) == []


def test_updates_that_are_not_finite_are_counted():
  line = only_line(rows(falling(40), clients_not_finite=np.eye(40)[7]))
  assert "1 of 80 updates (1%) were not finite in rounds 1-10" in line
  assert "lower method.local.learning_rate (0.01)" in line
  assert len(said(rows(falling(40), clients_not_finite=np.repeat([1, 2, 4, 7], 10)))) == 3


def test_hopeless_noise_names_clients_and_noise():
  line = only_line(rows(falling(40), signal_to_noise=0.002),
                   SETTING._replace(noise_norm=100.0))
  assert "signal-to-noise ratio 0.002" in line and "norm 100 times the clip norm" in line
  assert "over all 40 rounds at best 0.00016 of what changes the model is signal" in line
  assert "raise method.clients.per_round, or have less noise: a larger privacy.epsilon" in line


@pytest.mark.parametrize("changes", [{"rounds": 10_000}, {"independent_noise": False}])
def test_noise_that_averages_out_or_cancels_is_not_hopeless(changes):
  assert said(rows(falling(40), signal_to_noise=0.002), SETTING._replace(**changes)) == []


def test_a_clip_norm_that_clips_nothing():
  line = only_line(rows(falling(40), update_norm=0.05, clipped_fraction=0.0))
  assert "far below the clip norm 1" in line
  assert "lower method.aggregate.clip_norm to about 0.1" in line


def test_a_clip_norm_that_leaves_only_directions():
  line = only_line(rows(falling(40), update_norm=50.0, clipped_fraction=1.0))
  assert "from norm 50 to 1" in line
  assert "raise method.aggregate.clip_norm, or lower method.local" in line


def test_a_clip_norm_that_adapts_or_serves_no_noise_is_left_alone():
  loose = {"update_norm": 0.05, "clipped_fraction": 0.0}
  assert said(rows(falling(40), clip_norm=1.0, **loose)) == []
  assert said(rows(falling(40), signal_to_noise=math.inf, **loose)) == []


@pytest.mark.parametrize("columns, words", [
    ({"chance_loss": 0.0}, "loss is exactly 0 in rounds 3-5: a softmax over one class has no"),
    ({}, "loss is exactly 0 in rounds 3-5: no gradient is left"),
    ({"examples": 0.0}, "no client trained on an example in rounds 3-5: look at method.clients."),
    ({"clients": 0.0, "examples": 0.0, "signal_to_noise": 0.0, "update_norm": 0.0},
     "no client took part in rounds 3-5: raise method.clients.sampling.probability")])
def test_rounds_in_which_nothing_is_learned(columns, words):
  assert words in only_line(rows([0.0] * 20, **columns))


@pytest.mark.parametrize("row", [
    {"loss": 2.0, "units": 3.0, "gradient_norm": 1.0, "clipped_fraction": 1.0},
    {"loss": 2.0, "train_accuracy": 0.1},
    {"loss": 2.0, "chance_loss": 3.0, "accuracy": 0.1, "cosine": 0.1, "examples": 4.0},
    {"loss": math.nan}, {}])
def test_rows_of_other_methods_are_judged_by_what_they_have(row):
  assert said([(done, row) for done in range(1, 41)], Setting({}, 40)) == []


def test_other_methods_are_told_their_own_keys():
  hyperface = [(i + 1, {"loss": i, "units": 3.0, "signal_to_noise": 1e-4}) for i in range(40)]
  lines = said(hyperface, Setting({"optimizer.of.learning_rate": 0.1}, 40))
  assert any("lower method.optimizer.of.learning_rate (0.1)" in line for line in lines)
  assert any("raise method.units.batch_size" in line for line in lines)
  assert not any("client" in line for line in lines)
  split = [(i + 1, {"loss": 10 + i / 4, "train_accuracy": 0.0}) for i in range(40)]
  assert "lower method.server.learning_rate (2) or method.device.learning_rate (3)" in only_line(
      split, Setting({"device.learning_rate": 3.0, "server.learning_rate": 2.0,
                      "client_learning_rate": 9.0}, 40))


def test_the_lines_follow_from_the_rows():
  given = rows(np.linspace(2.0, 4.0, 40), signal_to_noise=0.001, clients_not_finite=2.0)
  watch = Watch(SETTING)
  lines = watch.after(given)
  assert lines == Watch(SETTING).after(given) == watch.lines and len(lines) == 4


def test_noise_that_all_rounds_cannot_overcome_is_said_before_the_first_round():
  assert Watch(SETTING).before() == []
  assert Watch(SETTING._replace(noise_norm=3 * SETTING.rounds ** 0.5)).before() == []
  line, = Watch(SETTING._replace(noise_norm=126.0)).before()
  assert line.startswith("noise on the mean has norm 126 times the clip norm: ")


def test_the_noise_of_a_method_is_that_of_the_parameters_it_averages():
  noised = tiny.bound(tiny.dp_fedemb())
  size = noised.communication(noised.init(jax.random.key(0))).up / 4
  assert health.noise_norm(noised) == planning.noise_norm_ratio(0.5, 2, size)
  assert health.noise_norm(tiny.bound(tiny.dp_fedemb(aggregate=ff.mean()))) is None


def test_a_dispatch_without_a_finite_update_stops_from_two_rounds_on():
  lost = lambda count, start=1: rows([math.nan] * count, start, clients_not_finite=8.0,
                                     examples=0.0)
  with pytest.raises(NoFiniteUpdate, match=r"rounds 1-2, .* lower method.local.learning_rate"
                                           ".*or look at the start and at method.backbone"):
    Watch(SETTING).after(lost(2))
  watch = Watch(SETTING)
  watch.after(lost(1))
  watch.after(rows([2.0], 2))
  watch.after(lost(1, 3))
  watch.after(rows([2.0], 4) + lost(1, 5))
  watch.after(rows([0.0], 6, clients=0.0, examples=0.0))
  watch.after(lost(1, 7))
  with pytest.raises(NoFiniteUpdate, match="rounds 7-8") as caught:
    watch.after(lost(1, 8))
  assert caught.value.done == 8 and "look at the start" not in str(caught.value)


def test_a_run_whose_updates_are_never_finite_stops_and_says_what_was_released(tmp_path, capfd):
  asked = Asked.of_config(changed(tiny_call.get_config(), {
      "rounds": 4, "method.local.learning_rate": 1e30, "evaluation.every": 0}))
  with pytest.raises(NoFiniteUpdate, match="no client's update was finite in rounds 1-2"):
    fit.carried_out(asked, tmp_path, print)
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["status"].startswith("stopped: no client's update") and summary["rounds"] == 2
  assert summary["updates_not_finite"] == 8
  assert any("8 of 8 updates (100%) were not finite" in line for line in summary["warnings"])
  ledger = Ledger.from_json(json.loads((tmp_path / "privacy.json").read_text())["ledger"])
  assert [times for _, times in ledger.entries] == [2]
  assert (tmp_path / "PRIVACY.md").exists()
  lines = (tmp_path / "metrics.csv").read_text().splitlines()
  losses = [line.split(",")[lines[0].split(",").index("loss")] for line in lines[-2:]]
  assert losses == ["nan", "nan"]
  assert "noise on the mean has norm" in capfd.readouterr().err


WARM = SETTING._replace(warm=True)


def test_a_warm_head_below_chance_that_learns_nothing_is_told():
  """Its loss lies below ln(classes) from the first round on, so only the course of it tells."""
  line = only_line(rows(np.full(40, 1.5)), WARM)
  assert line.startswith("loss 1.5 in rounds 1-10 is no lower than in the first rounds (1.5): "
                         "little is learned")
  assert said(rows(falling(40)), WARM) == []
  plateau = np.concatenate([np.linspace(2.0, 1.5, 10), np.full(30, 1.5)])
  assert said(rows(plateau), WARM) == []
  assert said(rows(np.full(40, 1.5))) == []  # a new head below chance has learned


def test_a_short_run_is_judged_when_it_is_over():
  short = SETTING._replace(rounds=8)
  assert only_line(rows(np.full(8, 2.6)), short).startswith("loss 2.6 is not below chance")
