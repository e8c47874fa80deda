"""Every number of the statement comes with its unit, adjacency and delta."""

from __future__ import annotations

import json
import re

import dp_accounting
import pytest

from fedjax_face.privacy import ledger, statement
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
  with pytest.raises(ValueError, match="noise_keys must be one of operating_system, devices, "):
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
  assert "Nothing was declared." in text
