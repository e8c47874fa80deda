"""Draws about units: a keyed function of identities, and of nothing else."""

import jax
import numpy as np
import pytest

from fedjax_face import draws
from fedjax_face.draws import Draws, identity_of, part_identities

MANY = identity_of(range(4000))


@pytest.mark.parametrize("count", [1, 3, 40, 300, draws._MANY + 1])
@pytest.mark.parametrize("words, expected", [
    ([0x0706050403020100], 0x93F5F5799A932462),
    ([0x0706050403020100, 0x0F0E0D0C0B0A0908], 0x3F2ACC7F57C29BDB)])
def test_siphash_gives_the_vectors_of_its_authors(words, expected, count):
  """vectors_sip64 of the reference implementation, for 8 and 16 bytes; few messages and many."""
  key = 0x0706050403020100, 0x0F0E0D0C0B0A0908
  arrays = [np.full(count, word, np.uint64) for word in words]
  assert draws._siphash(key, *arrays).tolist() == [expected] * count


def test_an_identitys_draw_does_not_depend_on_the_others_or_their_number():
  """Across the blocks in which identities are hashed, too."""
  everybody = identity_of(range(20_000))
  whole = Draws.of(1).bits(everybody, "use", 3)
  chosen = np.array([0, 8191, 8192, 19_999, 7])
  np.testing.assert_array_equal(Draws.of(1).bits(everybody[chosen], "use", 3), whole[chosen])
  assert Draws.of(1).bits(everybody[:0], "use", 3).shape == (0,)


def test_a_compiled_program_and_arrays_give_the_same_draws():
  """Of a number just beyond what is compiled, and whatever the default precision of JAX is."""
  rng = np.random.default_rng(0)
  words = [rng.integers(0, 2**64, draws._MANY, np.uint64) for _ in range(2)]
  key = 0xFEDCBA9876543210, 0x8000000000000001
  for given in (words[:1], words):
    by_arrays = np.concatenate([draws._siphash_block(key, [word[half] for word in given])
                                for half in (np.s_[:draws._MANY // 2], np.s_[draws._MANY // 2:])])
    np.testing.assert_array_equal(draws._siphash_compiled(key, given), by_arrays)
  assert not jax.config.jax_enable_x64


def test_where_jax_knows_no_processor_draws_are_the_same(monkeypatch):
  """As with JAX_PLATFORMS=cuda."""
  who = np.arange(draws._MANY + 1, dtype=np.uint64)
  compiled = Draws.of(1).bits(who, "use")
  def no_processor(**_):
    raise RuntimeError("Unknown backend cpu")
  monkeypatch.setattr(jax, "local_devices", no_processor)
  np.testing.assert_array_equal(Draws.of(1).bits(who, "use"), compiled)


@pytest.mark.parametrize("count", [1, 7, 500, 3000, 3999])
def test_the_first_of_many_are_those_that_come_first_in_order(count):
  chosen = Draws.of(4).first(MANY, count, "o")
  assert chosen.tolist() == sorted(Draws.of(4).order(MANY, "o")[:count].tolist())


def test_root_purpose_and_numbers_each_give_other_draws():
  root = bytes(range(32))
  made = [Draws.of(root).bits(MANY[:3], "use", 1), Draws.of(root[::-1]).bits(MANY[:3], "use", 1),
          Draws.of(root).bits(MANY[:3], "other", 1), Draws.of(root).bits(MANY[:3], "use", 2),
          Draws.of(root).bits(MANY[:3], "use"), Draws.of(root).bits(MANY[:3], "use", 1, 0),
          Draws.of(5).bits(MANY[:3], "use", 1), Draws.of((5, 0)).bits(MANY[:3], "use", 1)]
  assert len({tuple(one.tolist()) for one in made}) == len(made)
  np.testing.assert_array_equal(Draws.of(5).bits(MANY, "use"), Draws.of((5,)).bits(MANY, "use"))


def test_draws_are_uniform_and_independent_over_identities_rounds_and_purposes():
  drawn = np.stack([Draws.of(0).uniform(MANY, use, r) for use in "ab" for r in range(5)])
  assert drawn.min() >= 0 and drawn.max() < 1
  counts = np.stack([np.histogram(row, 10, (0, 1))[0] for row in drawn])
  assert (np.abs(counts - 400) < 5 * np.sqrt(4000 * .1 * .9)).all()
  correlation = np.corrcoef(drawn) - np.eye(len(drawn))
  assert np.abs(correlation).max() < 5 / np.sqrt(4000)
  assert abs(np.corrcoef(drawn[0, 1:], drawn[0, :-1])[0, 1]) < 5 / np.sqrt(4000)


def test_coins_and_groups_have_their_probabilities():
  assert abs(Draws.of(2).coins(MANY, .3, "c").mean() - .3) < 5 * np.sqrt(.21 / 4000)
  assert Draws.of(2).coins(MANY, 1.0, "c").all()
  counts = np.bincount(Draws.of(2).groups(MANY, 3, "g"), minlength=3)
  assert len(counts) == 3 and (np.abs(counts - 4000 / 3) < 5 * np.sqrt(4000 * 2 / 9)).all()


@pytest.mark.parametrize("gone", [0, 25, 49])
def test_without_one_the_others_keep_their_order_and_their_place(gone):
  stay = np.delete(np.arange(50), gone)
  whole, rest = (Draws.of(4).order(MANY[rows], "o") for rows in (np.arange(50), stay))
  np.testing.assert_array_equal(stay[rest], whole[whole != gone])
  first = Draws.of(4).first(MANY[:50], 10, "o")
  assert set(first) == set(whole[:10]) and (np.diff(first) > 0).all()
  left = set(stay[Draws.of(4).first(MANY[stay], 10, "o")])
  assert set(first) - {gone} <= left and len(left) == 10
  np.testing.assert_array_equal(Draws.of(4).first(MANY[:5], 10, "o"), np.arange(5))


def test_halves_leave_no_side_empty_and_otherwise_are_coins():
  drawn = Draws.of(0).halves(MANY, .25, "split")
  np.testing.assert_array_equal(drawn, Draws.of(0).coins(MANY, .25, "split"))
  assert Draws.of(0).halves(MANY, 1e-12, "split").sum() == 1
  assert (~Draws.of(0).halves(MANY, 1 - 1e-12, "split")).sum() == 1


def test_rows_of_a_unit_have_identities_that_no_other_unit_touches():
  of_unit = np.array([9, 4, 9, 9, 4, 7], np.uint64)
  parts = part_identities(of_unit)
  assert len(set(parts.tolist())) == 6
  np.testing.assert_array_equal(part_identities(of_unit[of_unit != 4]), parts[of_unit != 4])
  np.testing.assert_array_equal(part_identities(of_unit[:0]), of_unit[:0])


def test_a_generator_is_its_identitys_own():
  first, again, other = (Draws.of(1).generator(i, "regions").random(4) for i in (3, 3, 4))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_names_give_identities_and_shared_ones_are_refused():
  assert identity_of(["ann", "bob"]).tolist() != identity_of(["bob", "ann"]).tolist()
  np.testing.assert_array_equal(identity_of(["7"]), identity_of([7]))
  with pytest.raises(ValueError, match="made: several people have one name or identity; expected"):
    draws.require_distinct(identity_of(["ann", "bob", "ann"]), "made", "people")


def test_a_root_of_few_bits_is_refused_and_none_is_shown():
  with pytest.raises(ValueError, match="root of draws has 8 bytes; expected 16 to 64"):
    Draws.of(b"12345678")
  assert "secretsecret" not in repr(Draws.of(b"secretsecretsecret"))
