"""The comparison program without a run: settings, the table's numbers, one line for mistakes."""

import json
import math
import pathlib
import sys

import numpy as np
import pytest

from experiments import compare
from fedjax_face.runs import comparison_table, comparison_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
FEMNIST = f"{ROOT}/configs/dp_fedemb.py:femnist"


def test_settings_are_the_variant_with_its_overrides_and_nothing_else():
  from configs import dp_fedemb
  from fedjax_face import options
  from fedjax_face.runs.asked import changed, from_config
  overrides = dp_fedemb.get_comparison("femnist")
  made = compare.settings(FEMNIST)["settings"]
  assert list(made) == list(overrides)
  for name, arguments in made.items():
    assert arguments == from_config(changed(dp_fedemb.get_config("femnist"), overrides[name])), name
  assert options.call(made["dp_fedemb_epsilon8"]["privacy"])["epsilon"] == 8.0


def test_settings_cover_the_method_its_baselines_and_no_privacy():
  from fedjax_face import options
  made = compare.settings(FEMNIST)["settings"].values()
  methods = [options.call(arguments["method"]) for arguments in made]
  assert {method["name"] for method in methods} == {"dp_fedemb", "fedavg", "centralized"}
  assert {options.call(arguments["privacy"])["epsilon"] for arguments in made} == {None, 8.0}
  assert {method["aggregate"]["name"] for method in methods if "aggregate" in method} == {
      "gaussian", "mean"}


def run(value, epsilon):
  units = [] if epsilon is None else [
      {"unit": "person", "epsilon": {"best": epsilon}, "channels": []}]
  return {"metrics": {"accuracy": {"value": value}}}, {"units": units}


def test_means_intervals_and_paired_differences():
  """Student's t with two degrees of freedom: 97.5 % quantile 4.302653, half width t s / sqrt(3)."""
  table = comparison_table.summarise({
      "ours": [run(0.5, 8.0), run(0.6, 8.0), run(0.7, 8.0)],
      "baseline": [run(0.3, None), run(0.5, None), run(0.4, None)]})
  ours, baseline = (table[name]["metrics"]["accuracy"] for name in ("ours", "baseline"))
  half = 4.302653 * 0.1 / math.sqrt(3)
  assert ours["mean"] == pytest.approx(0.6)
  assert (ours["low"], ours["high"]) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)
  assert (ours["difference"], ours["difference_low"], ours["difference_high"]) == (0, 0, 0)
  # Differences by seed: -0.2, -0.1, -0.3.
  assert baseline["difference"] == pytest.approx(-0.2)
  assert (baseline["difference_low"], baseline["difference_high"]) == pytest.approx(
      (-0.2 - half, -0.2 + half), abs=1e-6)
  assert table["ours"]["epsilon"] == 8.0 and table["baseline"]["epsilon"] is None


def test_share_of_a_gap_by_hand():
  """Gap .2 in every seed; the third setting closes .1, .05 and .15 of it."""
  runs = {"low": (0.3, 0.4, 0.5), "high": (0.5, 0.6, 0.7), "between": (0.4, 0.45, 0.65)}
  table = comparison_table.summarise(
      {name: [run(v, None) for v in values] for name, values in runs.items()}, ("low", "high"))
  share = table["between"]["metrics"]["accuracy"]
  half = 4.302653 * 0.05 / math.sqrt(3) / 0.2
  assert share["share"] == pytest.approx(0.5)
  assert (share["share_low"], share["share_high"]) == pytest.approx(
      (0.5 - half, 0.5 + half), abs=1e-6)
  assert table["low"]["metrics"]["accuracy"]["share"] == 0
  assert table["high"]["metrics"]["accuracy"]["share"] == pytest.approx(1)


def test_a_gap_that_is_not_clearly_there_has_no_share():
  runs = {"low": (0.3, 0.4, 0.5), "high": (0.5, 0.3, 0.6)}
  table = comparison_table.summarise(
      {name: [run(v, None) for v in values] for name, values in runs.items()}, ("low", "high"))
  assert "share" not in table["high"]["metrics"]["accuracy"]
  assert comparison_text._share_words(table["high"]["metrics"]["accuracy"]) == "no clear gap"


def test_the_gap_of_fedgc_lies_between_two_of_its_settings():
  found = compare.settings(f"{ROOT}/configs/fedgc.py:synthetic")
  gap = found["gap"]
  assert "equivalence" not in found
  assert gap == ("fedpe", "centralized_passes") and set(gap) <= set(found["settings"])
  forms = [name for name in found["settings"] if name.startswith("fedgc_")]
  assert len(forms) == 10


def compared_run(value, start, epsilon=None):
  """A run that holds its start and raw pixels."""
  summary, privacy = run(value, epsilon)
  beside = {"start": ("public start", start), "pixels": ("raw pixels", 0.3)}
  summary["references"] = {
      name: {"words": words, "metrics": {"accuracy": {"value": of}}}
      for name, (words, of) in beside.items()}
  return summary, privacy


def compared_runs():
  """Gains .2, .2, .2 without privacy and .05, .1, .15 with it, over starts of their own seed."""
  starts = (0.4, 0.45, 0.5)
  gains = {"private": (0.05, 0.1, 0.15), "non_private": (0.2, 0.2, 0.2)}
  return {name: [compared_run(s + g, s) for s, g in zip(starts, own, strict=True)]
          for name, own in gains.items()}


def test_gain_over_the_start_of_the_same_seed_and_the_share_that_privacy_keeps():
  table = comparison_table.summarise(compared_runs(), non_private="non_private")
  found = table["private"]["metrics"]["accuracy"]
  half = 4.302653 * 0.05 / math.sqrt(3)
  assert found["gain"] == pytest.approx(0.1)
  assert (found["gain_low"], found["gain_high"]) == pytest.approx(
      (0.1 - half, 0.1 + half), abs=1e-6)
  assert found["gain_kept"] == pytest.approx(0.5)
  assert (found["gain_kept_low"], found["gain_kept_high"]) == pytest.approx(
      (0.5 - half / 0.2, 0.5 + half / 0.2), abs=1e-5)
  assert found["share_of_non_private"] == pytest.approx(0.55 / 0.65)
  assert table["non_private"]["metrics"]["accuracy"]["gain_kept"] == pytest.approx(1)
  json.dumps(table)


def test_runs_without_references_have_no_gain():
  table = comparison_table.summarise({"old": [run(0.5, None), run(0.6, None)]}, non_private="old")
  found = table["old"]["metrics"]["accuracy"]
  assert "gain" not in found and "gain_kept" not in found
  assert found["share_of_non_private"] == 1
  assert comparison_table.references([run(0.5, None)]) == {}


def test_the_references_stand_below_the_settings(capsys):
  runs = compared_runs()
  beside = comparison_table.references(runs["private"])
  assert list(beside) == ["public start", "raw pixels"]
  assert beside["public start"]["accuracy"]["mean"] == pytest.approx(0.45)
  table = comparison_table.summarise(runs, non_private="non_private")
  comparison_text.print_table(table, ["accuracy"], 3, "nobody", beside)
  rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines()
          if line.startswith("│")]
  assert [row for row in rows if row] == ["private", "non_private", "public start", "raw pixels"]


def test_a_setting_without_privacy_that_is_none_is_refused(tmp_path, capfd):
  path = wrong(tmp_path, "def get_comparison():\n  return {'a': {}}\n"
               "def get_non_private():\n  return 'b'\n")
  assert "non_private: b is no setting: a" in refused(capfd, tmp_path, path)


MARGINS = comparison_table.Margins("plain", {"accuracy": .05})


def test_equivalence_is_shown_by_the_interval_and_not_by_a_small_difference():
  """Differences -.01, 0, .01: t's 95 % quantile 2.919986; .05 is 5 sqrt(3) standard errors away."""
  runs = {"plain": (.8, .82, .81), "near": (.79, .82, .82), "wide": (.7, .9, .83),
          "worse": (.75, .771, .759)}
  table = comparison_table.summarise(
      {name: [run(v, None) for v in values] for name, values in runs.items()}, None, MARGINS)
  found = {name: row["metrics"]["accuracy"].get("equivalence") for name, row in table.items()}
  assert found["plain"] is None
  half = 2.919986 * .01 / math.sqrt(3)
  near = found["near"]
  assert near["margin"] == .05 and near["equivalent"] is True
  assert [near[key] for key in ("difference", "low", "high")] == pytest.approx(
      [0, -half, half], abs=1e-6)
  assert near["p_value"] == pytest.approx(.0065, abs=2e-4)
  assert found["wide"]["difference"] == pytest.approx(0)
  assert found["wide"]["equivalent"] is False and found["worse"]["equivalent"] is False
  assert comparison_text.verdict(near).startswith("equivalent within +-0.05 (")
  assert comparison_text.verdict(found["wide"]).startswith("not shown (")
  json.dumps(table)


def test_verdicts_are_printed_beside_the_settings(capsys):
  runs = {"plain": (.8, .82), "same": (.8, .82), "worse": (.5, .6)}
  table = comparison_table.summarise(
      {name: [run(v, None) for v in values] for name, values in runs.items()}, None, MARGINS)
  comparison_text.print_equivalence(table, MARGINS)
  said = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()
          if line.startswith("│")}
  assert set(said) == {"same", "worse"} and "as good as plain?" not in said
  assert "equivalent within +-0.05" in said["same"] and "not shown" in said["worse"]


def test_dp_hyperface_is_held_against_the_run_without_privacy():
  made = compare.settings(f"{ROOT}/configs/dp_hyperface.py:faces")
  assert made["equivalence"] == ("non_private_uncertainty",
                                 {"detection_accuracy": .05, "gender_accuracy": .05})
  assert "gap" not in made


@pytest.mark.parametrize("given, message", [
    ({"reference": "c", "margins": {}}, "equivalence: c is no setting: a, b"),
    ({"reference": "a", "margins": {"nme": .1}}, "nme is not in evaluation.headline: accuracy"),
    ({"reference": "a", "margins": {"accuracy": 0}}, "the margin of accuracy is 0; expected above"),
])
def test_wrong_equivalence_is_refused_before_anything_runs(tmp_path, capfd, given, message):
  path = wrong(tmp_path, "def get_comparison():\n  return {'a': {}, 'b': {}}\n"
               f"def get_equivalence():\n  return {given!r}\n")
  assert message in refused(capfd, tmp_path, path)


def test_a_setting_without_an_epsilon_says_none_and_which_channels_have_one():
  channels = {"backbone": "infinite", "clusters": 3.998}
  assert [comparison_text._epsilon({"epsilon": value, "channels": channels if value else {}})
          for value in (7.996, None, "infinite")] == ["8.00", "none", "none; clusters 4.00"]


def test_the_table_says_whose_epsilon_it_is_also_where_only_a_channel_has_one():
  unit = lambda total, clusters: {
      "unit": "person", "adjacency": "add_or_remove_one", "delta": 1e-5,
      "epsilon": {"best": total},
      "channels": [{"channel": "clusters", "epsilon": {"best": clusters}}]}
  said = lambda *units: comparison_text.unit_of({"one": [({}, {"units": units})]})
  assert said(unit("infinite", 4.0)) == "each person, add_or_remove_one, delta 1e-05"
  assert said(unit("infinite", "infinite")) == "nobody"


def wrong(tmp_path, rest):
  """A config file with a small method and what is wrong with the rest."""
  path = tmp_path / "wrong.py"
  path.write_text(
      "def get_config():\n  return dict(method='dp_fedemb', data='synthetic_faces', rounds=1,\n"
      "              privacy=dict(epsilon=8.0), evaluation=dict(headline=('accuracy',)))\n" + rest)
  return path


def refused(capfd, tmp_path, config, *flags):
  status = compare.main([f"--config={config}", f"--workdir={tmp_path}/w", *flags])
  said = capfd.readouterr().err.strip().splitlines()
  assert status == 2 and len(said) == 1 and said[0].startswith("error: ")
  assert not (tmp_path / "w").exists()
  return said[0]


def test_a_missing_config_file_is_named(tmp_path, capfd):
  assert "none.py: no such file" in refused(capfd, tmp_path, tmp_path / "none.py")


def test_a_config_without_a_comparison_is_named(tmp_path, capfd):
  path = tmp_path / "alone.py"
  path.write_text("def get_config():\n  return None\n")
  assert f"{path} has no get_comparison(variant)" in refused(capfd, tmp_path, path)


def test_an_override_of_nothing_is_named(tmp_path, capfd):
  path = wrong(tmp_path,
               "def get_comparison():\n  return {'a': {'method.aggregate.clip_nrm': 1}}\n")
  assert "clip_nrm" in refused(capfd, tmp_path, path)


def test_an_unknown_variant_is_named(tmp_path, capfd):
  assert "'none'" in refused(capfd, tmp_path, FEMNIST.replace("femnist", "none"))


@pytest.mark.parametrize("given, missing", [
    (["--workdir=w"], "--config is required"), ([f"--config={FEMNIST}"], "--workdir is required")])
def test_what_is_required_is_said(given, missing, capfd):
  assert compare.main(given) == 2
  assert missing in capfd.readouterr().err


def test_sets_made_by_hand_are_not_taken_for_each_other(tmp_path, monkeypatch):
  """Two of one size are recorded alike."""
  import fedjax_face as ff
  from fedjax_face.runs import compare as runs
  given = []
  monkeypatch.setattr(runs, "read_json", lambda path: {})
  monkeypatch.setattr(runs.fit, "carried_out", lambda asked, workdir, say, account, sources, **more:
                      given.append((workdir.parent.name, int(sources.train.images.sum()))))
  settings = {}
  for seed, name in enumerate(("one", "other", "again")):
    rng = np.random.default_rng(seed % 2)
    person = np.repeat([f"{seed % 2}-{p}" for p in range(12)], 2)
    data = ff.faces(rng.integers(0, 256, (24, 4, 4, 1), np.uint8), person, name="mine").split(
        evaluation=0.4)
    settings[name] = {"method": ff.dp_fedemb(), "data": data, "rounds": 1,
                      "privacy": ff.budget(epsilon=8.0)}
  runs.run_all(runs.checked(settings), tmp_path, [0])
  sums = dict(given)
  assert sums["one"] == sums["again"] != sums["other"]


def test_one_seed_is_refused_before_anything_runs(tmp_path):
  import fedjax_face as ff
  setting = {"method": ff.dp_fedemb(), "data": ff.synthetic_faces(), "rounds": 1,
             "privacy": ff.budget(epsilon=8.0)}
  with pytest.raises(ValueError, match=r"seeds=\[0\]: expected two at least"):
    ff.compare({"a": setting}, tmp_path / "w", seeds=[0])
  assert not (tmp_path / "w").exists()


def test_every_setting_and_seed_is_given_the_budget(tmp_path, monkeypatch):
  from fedjax_face.runs import compare as runs
  given = []
  monkeypatch.setattr(runs.Asked, "sources", lambda asked: None)
  monkeypatch.setattr(runs, "read_json", lambda path: {})
  monkeypatch.setattr(runs.fit, "carried_out", lambda asked, workdir, say, account, **more:
                      given.append((str(workdir.relative_to(tmp_path)), asked.record["seed"],
                                    account.limit)))
  monkeypatch.setattr(runs, "summarise", lambda *given: sys.exit(0))
  with pytest.raises(SystemExit):
    compare.main([f"--config={FEMNIST}", f"--workdir={tmp_path}", "--seeds=2",
                  f"--privacy_budget={tmp_path}/b.json", "--privacy_budget_limit=8"])
  assert {limit for *_, limit in given} == {8.0}
  assert {(place.rpartition("/")[2], seed) for place, seed, _ in given} == {
      ("seed0", 0), ("seed1", 1)}
