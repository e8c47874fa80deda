"""Silos that publish clusters, small enough to run in a second."""

import functools

import jax
import jax.numpy as jnp

import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face.method import Setting
from fedjax_face.models.embedding import unit_embeddings
from tests.methods import tiny

NO_LIMIT = {"significance": 0.0}
MECHANISMS = {
    "client_mean": ff.mechanisms.client_mean(**NO_LIMIT),
    "anchor_table": ff.mechanisms.anchor_table(clusters=2, **NO_LIMIT),
    "dp_lloyd": ff.mechanisms.dp_lloyd(clusters=2, **NO_LIMIT),
    "exponential_caps": ff.mechanisms.exponential_caps(clusters=2, candidates=5, **NO_LIMIT),
    "dplc_published": ff.mechanisms.dplc_published(clusters=2, smallest=1),
    "kmeans": ff.mechanisms.kmeans(clusters=2),
    "all_rows": ff.mechanisms.all_rows(),
}
PRIVATE = ("client_mean", "anchor_table", "dp_lloyd", "exponential_caps")
PARTS = tiny.SILO_PARTS | {"start_head": "public_prototypes"}
NOISED = ff.gaussian(clip_norm=0.2, noise_multiplier=1.0)


def clusters(named="anchor_table", **changes):
  """With as much noise as a mechanism of that name takes."""
  noise = {"noise_multiplier": 1.0} if named in PRIVATE else {}
  if named == "dplc_published":
    noise = {"epsilon": 2.0}
  return ff.clusters(**{"mechanism": MECHANISMS[named]} | noise | changes)


def pooled(mechanism="anchor_table"):
  return ff.replace(MECHANISMS[mechanism], pooled=True)


def fedpe(**changes):
  return ff.fedpe(**PARTS | changes)


def privacyface(**changes):
  return ff.privacyface(**PARTS | {"exchange": clusters()} | changes)


def composed(**changes):
  return ff.composed(**PARTS | {"exchange": clusters(), "aggregate": NOISED} | changes)


@functools.cache
def backbone():
  """That public people have trained."""
  return tiny.OneLayer().init(jax.random.key(5), jnp.zeros((1, 12, 12, 1)))


def embed(params, images):
  """Unit embeddings."""
  return unit_embeddings(tiny.OneLayer(), params, images)


def public():
  return tiny.people(6, seed=2)


def bound_anew(method, rounds=4, **setting):
  return methods.bind(method, tiny.people(), Setting(**{
      "mesh": tiny.one_device(), "rounds": rounds, "start": backbone(), "start_is_public": True,
      "public": public()} | setting))


@functools.cache
def bound(method, **setting):
  """With public people and a backbone that they have trained; once."""
  return bound_anew(method, **setting)
