"""Keys follow from their roots by a keyed hash: what one round uses says nothing of another."""

import hashlib

import jax
import numpy as np
import pytest

from fedjax_face.runs import loop, streams
from tests.runs.toys import IMAGES, toy_algorithm

ROOT = bytes(range(32))


def words_by_hand(root, round_index):
  """The definition, written out: keyed BLAKE2b of the round, 8 bytes, little-endian words."""
  digest = hashlib.blake2b(round_index.to_bytes(8, "little"), digest_size=8, key=root,
                           person=b"noise").digest()
  return [int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")]


def test_noise_keys_are_the_keyed_hash_of_their_round():
  assert streams.noise_words(ROOT, [0, 5]).tolist() == [
      words_by_hand(ROOT, 0), words_by_hand(ROOT, 5)]
  key = jax.random.key_data(streams.step_keys(3, ROOT, 5).noise)
  assert np.asarray(key).tolist() == words_by_hand(ROOT, 5)


@pytest.mark.parametrize("per_dispatch, start", [(1, 0), (3, 0), (3, 2)])
def test_the_loop_gives_every_round_its_own_key(per_dispatch, start):
  seen = []
  algorithm = toy_algorithm()

  def step(state, data, cohort, hparams, keys):
    jax.debug.callback(lambda words: seen.append(tuple(map(int, words))),
                       jax.random.key_data(keys.noise), ordered=True)
    return algorithm.step(state, data, cohort, hparams, keys)

  spying = algorithm.__class__(**{**vars(algorithm), "step": step})
  state = loop.initial_state(spying, 0, loop.clients_mesh(jax.devices()[:1]))
  for _ in loop.train(spying, IMAGES, rounds=7, start=start, state=state, seed=0, noise_root=ROOT,
                      cohort_root=ROOT, mesh=loop.clients_mesh(jax.devices()[:1]),
                      rounds_per_dispatch=per_dispatch):
    pass
  jax.effects_barrier()
  assert seen == [tuple(words_by_hand(ROOT, r)) for r in range(start, 7)]


def test_every_use_round_and_root_is_another_stream():
  other = bytes(32)
  drawn = [streams.expand(root, use, number, 16) for root in (ROOT, other)
           for use in ("noise", "participation", "device") for number in (0, 1, 2**31 - 1)]
  assert len(set(drawn)) == len(drawn)


def test_a_secret_root_has_256_bits_and_is_new_each_time():
  roots = {streams.secret_root() for _ in range(4)}
  assert len(roots) == 4 and {len(root) for root in roots} == {32}


def test_a_public_root_follows_from_its_seed():
  assert streams.public_root(1) == streams.public_root(np.int64(1)) != streams.public_root(2)


@pytest.mark.parametrize("root", [b"short", 3, None, (1, 2)])
def test_what_is_no_root_is_refused(root):
  with pytest.raises(ValueError, match="a root has 32 bytes: expected one of streams"):
    streams.expand(root, "noise", 0, 8)


def test_who_takes_part_must_be_given():
  with pytest.raises(TypeError, match="cohort_root"):
    next(loop.train(toy_algorithm(), IMAGES, rounds=1, seed=0, noise_root=ROOT))
