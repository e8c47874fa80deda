"""Every number of the statement comes with its unit, adjacency and delta."""

from __future__ import annotations

import json
import re

import dp_accounting
import numpy as np
import pytest

from fedjax_face import draws
from fedjax_face.data import cohorts
from fedjax_face.privacy import ledger, statement, statement_files
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, Release

ADD = Adjacency.ADD_OR_REMOVE_ONE


def book(leak=False):
  result = Ledger()
  result.record(Release("clusters", "person", ADD, dp_accounting.GaussianDpEvent(8.342),
                        "every client", 4, "cell sums with Gaussian noise"), 20)
  if leak:
    result.record(ledger.non_private("heads", "person", ADD, "the server", "sent in clear"))
  result.declare_not_covered("Training loss leaves without noise.")
  result.declare_public("digiface")
  return result


def made(source, population=7000, delta=1e-5, noise_keys="operating_system"):
  return statement.privacy_json(
      source, delta=delta, population={"person": population, "image": 50_000},
      sampling="no sampling, everybody takes part", noise_keys=noise_keys)


def test_json_holds_both_accountants_counts_and_the_ledger():
  data = json.loads(json.dumps(made(book()), allow_nan=False))
  (unit,) = data["units"]
  assert (unit["unit"], unit["adjacency"], unit["delta"]) == ("person", ADD.value, 1e-5)
  assert unit["epsilon"]["pld"] == pytest.approx(1., abs=1e-3)
  assert unit["epsilon"]["rdp"] == pytest.approx(1.0926, abs=1e-3)
  assert unit["epsilon"]["best"] == unit["epsilon"]["pld"]
  (channel,) = unit["channels"]
  assert (channel["steps"], channel["events"], channel["seen_by"]) == (20, 5, "every client")
  assert Ledger.from_json(data["ledger"]) == book()
  assert "dp_accounting" in data["accountants"]


def test_markdown_says_who_what_and_what_not():
  text = statement.privacy_markdown(made(book()))
  assert "one of 7000" in text
  assert ("**Epsilon of everything released about a person, at delta 1e-05, add-or-remove-one: "
          "1.000**") in text
  assert "| clusters | every client | 1.000 | 1.093 | 1.000 | 20 | 5 |" in text
  assert "cell sums with Gaussian noise" in text
  assert "## What is NOT covered\n\n* Training loss leaves without noise." in text
  assert "(not protected)\n\n* digiface" in text
  assert "operating system" in text
  assert "Warning" not in text


def test_no_epsilon_without_unit_adjacency_and_delta():
  text = statement.privacy_markdown(made(book()))
  for line in text.splitlines():
    if re.search(r"\bEpsilon\b.*\d\.\d\d|All channels together", line):
      assert "person" in line and "delta 1e-05" in line and "add-or-remove-one" in line
  header = next(line for line in text.splitlines() if line.startswith("| channel"))
  assert "epsilon for a person (delta 1e-05, add-or-remove-one)" in header


def test_infinite_epsilon_is_none_with_the_reason():
  data = made(book(leak=True))
  assert data["units"][0]["epsilon"]["best"] == "infinite"
  json.dumps(data, allow_nan=False)
  text = statement.privacy_markdown(data)
  assert "none (epsilon infinite): heads: sent in clear**" in text
  assert "| heads | the server | none (epsilon infinite): sent in clear |" in text
  assert "There is no finite bound for a person" in text
  assert "by a factor of at most" not in text


def test_what_no_accountant_can_do_is_not_computed():
  source = Ledger()
  source.record(Release("backbone", "person", ADD, dp_accounting.UnsupportedDpEvent(), "everyone"))
  text = statement.privacy_markdown(made(source))
  assert made(source)["units"][0]["epsilon"]["best"] is None
  assert "not computed: RDP not available" in text


@pytest.mark.parametrize("population, warned", [(99_999, False), (100_000, True), (10**7, True)])
def test_delta_must_be_below_one_over_the_population(population, warned):
  data = made(book(), population=population, delta=1e-5)
  assert (data["units"][0]["delta_warning"] is not None) == warned
  assert ("**Warning:** delta = 1e-05 is not below" in statement.privacy_markdown(data)) == warned


def test_pinned_noise_is_no_protection():
  text = statement.privacy_markdown(made(book(), noise_keys="pinned"))
  assert "no privacy is claimed against anyone who knows the seed" in text
  with pytest.raises(ValueError, match="noise_keys must be one of operating_system, memory, "):
    made(book(), noise_keys="seed 3")


def test_every_unit_needs_a_population():
  with pytest.raises(ValueError, match="no entry for unit 'person'"):
    statement.privacy_json(book(), delta=1e-5, population={}, sampling="-",
                           noise_keys="operating_system")


def test_a_bound_is_never_rounded_down():
  assert statement.epsilon_words(.0041, "") == "0.005"
  assert statement.epsilon_words(2., "") == "2.000"


def test_empty_ledger_claims_nothing():
  text = statement.privacy_markdown(made(Ledger()))
  assert "no release of this run carries a guarantee" in text
  assert "Nothing was declared." in text and "32-bit" not in text


RUN = {"algorithm": "dp_fedemb", "revision": "abc", "written": "2026-01-02", "status": "finished",
       "evaluated_on": "40 people of others who do not train and whom nothing here protects",
       "data": {"name": "faces", "people": 7000, "images": 21000, "digest": "00ff",
                "digest_of": "people, labels and pixels"}}


def of_photographs(steps=10, largest=7):
  source = Ledger()
  source.record(Release("model", "image", ADD, dp_accounting.PoissonSampledDpEvent(
      0.1, dp_accounting.GaussianDpEvent(2.0)), "everyone", note="DP-SGD"), steps)
  return statement.privacy_json(
      source, delta=1e-6, population={"image": 5000}, sampling="coins",
      noise_keys="operating_system", units_per_person={"image": largest},
      mechanism={"clip norm C": 0.5}, dealt=["two groups"])


def test_the_first_paragraph_says_which_data_when_by_what_and_how_good():
  said = statement.privacy_json(book(), delta=1e-5, population={"person": 7000}, sampling="-",
                                noise_keys="operating_system", run=RUN)
  first = statement.privacy_markdown(said).split("\n\n")[1]
  for words in ("dp_fedemb trained on faces: 7,000 people, 21,000 images", "digest of people",
                "labels and pixels: 00ff", "2026-01-02", "revision abc",
                "evaluated on 40 people of others", "whom nothing here protects",
                "**Protection of each person: strong**",
                "Ponomareva"):
    assert words in first
  assert first.index("finds at most 2.") < first.index("Protection of each")
  assert "e^epsilon" not in first and "not finished" not in first


@pytest.mark.parametrize("status, words", [
    ("unfinished", "**This run has not finished.** What follows is the most that it can have "
     "released since this was written: 1,008 rounds."),
    ("stopped", "**This run stopped before its end.** What follows is what it released until "
     "then: 1,008 rounds.")])
def test_a_run_without_an_end_says_so_first(status, words):
  said = statement.privacy_json(book(), delta=1e-5, population={"person": 7000}, sampling="-",
                                noise_keys="operating_system",
                                run=RUN | {"status": status, "counted": 1008})
  assert statement.privacy_markdown(said).split("\n\n")[1].startswith(words)


def test_without_a_guarantee_nothing_is_said_of_what_would_weaken_one():
  source = Ledger()
  source.record(ledger.non_private("heads", "person", ADD, "the server", "sent in clear"))
  text = statement.privacy_markdown(made(source))
  for words in ("32-bit", "Hyperparameters", "twice its epsilon"):
    assert words in statement.privacy_markdown(made(book())) and words not in text


def test_epsilon_is_said_as_a_bound_on_an_attacker():
  data = made(book())
  (unit,) = data["units"]
  share = unit["attacker"]["found_at_most"]
  assert 0.01 < share < 0.0272 + 1e-5   # below e^1 times 1 %
  text = statement.privacy_markdown(data)
  assert re.search(r"wrong on 1 % of those that are not in, finds at most 2\.\d %", text)
  assert "2.72 times (e^epsilon)" in text and "delta 1e-05" in text


def test_without_a_bound_the_attacker_may_find_everybody():
  (unit,) = made(book(leak=True))["units"]
  assert unit["attacker"]["found_at_most"] == 1 and unit["verdict"]["word"] == "none"


def test_a_person_on_several_photographs_has_an_epsilon_of_each_number():
  data = of_photographs()
  persons = data["units"][0]["persons"]
  assert persons["largest"] == 7 and list(persons["epsilon"]) == ["2", "5", "7", "10"]
  values = [data["units"][0]["epsilon"]["best"], *persons["epsilon"].values()]
  assert values == sorted(values)
  text = statement.privacy_markdown(data)
  assert "The unit is an image, not a person" in text
  assert re.search(r"\| 7 \| \d+\.\d{3} \|", text)
  assert made(book())["units"][0]["persons"] is None


def test_add_or_remove_is_meant_at_a_public_number():
  text = statement.privacy_markdown(of_photographs())
  assert "The number of images, 5000, is treated as public" in text and "not how many" in text


def test_what_adds_up_is_said_with_and_without_a_budget():
  assert "No privacy budget was kept" in statement.privacy_markdown(made(book()))
  runs = [{"name": "first", "started": "2026-01-01", "revision": "abc",
           "epsilon": {"person": 1.0}}] * 2
  budget = {"data": "faces", "delta": 1e-6, "limit": 4.0, "total": {"person": 1.5}, "runs": runs}
  text = statement.privacy_markdown(made(book()) | {"budget": budget})
  assert ("Running total of faces, two run(s): epsilon 1.500 for each person at delta 1e-06, of a "
          "limit of 4") in text
  assert text.count("| first | 2026-01-01 | abc | 1.000 for each person at delta 1e-06 |") == 2


def test_secrets_are_named_as_to_be_deleted_and_the_generator_as_what_it_is():
  text = statement.privacy_markdown(made(book()))
  (row,) = (file for file in statement_files.of_run(evaluates_training_people=False,
                                                   secrets=True) if file.pattern == "secrets")
  assert row.handling == "delete" and "backups too" in row.why
  assert "Threefry-2x32" in text and "nobody has shown it to be cryptographically secure" in text
  assert "256-bit" in text and "2^64" in text


def test_a_researcher_finds_noise_sampling_and_how_people_were_dealt():
  text = statement.privacy_markdown(of_photographs())
  assert "| clip norm C | 0.5 |" in text and "* Dealt: two groups." in text
  assert "| 10 | 10 | 2 | 0.1 |" in text   # steps, events, noise over sensitivity, q
  assert text.index("# For researchers") < text.index("# Appendix: accounting")
  assert "PoissonSampled" not in text[:text.index("# Appendix: accounting")]


def test_who_takes_part_is_drawn_as_the_statement_says(monkeypatch):
  """128-bit keys of SipHash, other for each purpose and round, and no generator of numpy."""
  words = statement.NOISE_KEYS["operating_system"]
  assert "SipHash-2-4 under 128-bit keys" in words and "PCG64" not in words
  drawn, people = draws.Draws(bytes(range(32))), np.arange(200, dtype=np.uint64)
  keys = {drawn._key(*use) for use in (("a", (0,)), ("a", (1,)), ("b", (0,)))}
  assert len(keys) == 3 and all(0 <= half < 2**64 for key in keys for half in key)
  asked = []
  siphash = lambda key, identity: asked.append(key) or np.zeros(len(identity), np.uint64)
  monkeypatch.setattr(draws, "_siphash", siphash)
  monkeypatch.setattr(np.random, "default_rng", lambda *_: pytest.fail("drawn by numpy"))
  for round_number, sampler in enumerate((cohorts.Poisson(.5), cohorts.FixedSize(7))):
    sampler.sample(drawn, round_number, people)
  assert len(set(asked)) == len(asked) == 2


def test_noise_without_a_proof_is_not_denied():
  assert "nothing is noised" not in statement.NOISE_KEYS["none"]
  assert "noise, where a method draws any without a proof" in statement.NOISE_KEYS["none"]


@pytest.mark.parametrize("of_people_who_train", [False, True])
def test_curves_are_guarded_whoever_is_evaluated(of_people_who_train):
  (row,) = (file for file in statement_files.of_run(evaluates_training_people=of_people_who_train)
            if "roc.png" in file.pattern)
  assert row.handling == "guard"
  assert ("people who train" in row.why) == of_people_who_train


def test_the_table_of_files_has_what_a_run_leaves_and_nothing_else():
  asked = {"start", "overlap.png", "wandb", "--privacy_budget", "secrets", "roc.png"}
  named = lambda **of: {name for name in asked for file in statement_files.of_run(
      evaluates_training_people=False, **{"curves": False} | of) if name in file.pattern}
  assert not named()
  for option, names in (("start", {"start"}), ("silos", {"overlap.png"}),
                        ("wandb", {"wandb"}), ("budget", {"--privacy_budget"}),
                        ("secrets", {"secrets"}), ("curves", {"roc.png"})):
    assert named(**{option: True}) == names
  said = made(book()) | {"files": [statement_files.of_device()[-1]._asdict()]}
  assert "| noise.json | delete | root of the noise" in statement.privacy_markdown(said)


def test_a_model_is_offered_only_where_a_guarantee_holds_for_it():
  why = lambda **of: next(file.why for file in statement_files.of_run(
      evaluates_training_people=False, **of) if file.pattern == "checkpoints*")
  assert "may be taken out and published" in why()
  assert "published" not in why(releases_model=False)
  assert "silos" in why(silos=True) and "silos" not in why()


def test_an_edge_server_and_a_device_list_their_own_files():
  patterns = lambda files: {file.pattern for file in files}
  server = patterns(statement_files.of_edge_server())
  assert {"metrics.csv", "checkpoints*"} < server
  assert patterns(statement_files.of_edge_server(True)) - server == {"the file of --transcript"}
  assert patterns(statement_files.of_device(True)) - patterns(statement_files.of_device(False)) == {
      "checkpoints"}


def test_that_seeds_are_pinned_is_said_before_what_it_limits():
  first = statement.privacy_markdown(made(book(), noise_keys="pinned")).split("\n\n")[1]
  assert first.index("are pinned") < first.index("finds at most")
  leaking = statement.privacy_markdown(made(book(leak=True), noise_keys="pinned"))
  assert "what follows is true only of others" not in leaking


def test_a_sentence_of_an_older_ledger_is_not_repeated():
  old = book()
  old.declare_not_covered(statement._OF_ANY_GUARANTEE[0])
  assert made(old)["not_covered"].count(statement._OF_ANY_GUARANTEE[0]) == 1


def test_private_numbers_that_the_statement_gives_are_said_to_be_public():
  said = statement.privacy_json(
      book(), delta=1e-5, population={"person": 7000}, sampling="-", noise_keys="memory", run=RUN,
      units_per_person={"person": 3}, mechanism={statement.MOST_PEOPLE: 4}, dealt=["two silos"])
  for number in ("the number of people", "the number of images",
                 "the most persons of one person", "most people in a client",
                 "the notes on how people were dealt"):
    assert number in said["not_covered"][-1]
  assert "treated as public" in said["not_covered"][-1]
  assert "most people in a client" not in made(book())["not_covered"][-1]


def test_the_budget_says_which_runs_it_does_not_count():
  budget = {"data": "faces", "delta": 1e-6, "limit": None, "total": {}, "runs": []}
  text = statement.privacy_markdown(made(book()) | {"budget": budget})
  assert "experiments.audit --one_run" in text and "is not counted" in text
