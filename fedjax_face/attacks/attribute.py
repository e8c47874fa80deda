"""A trait that nobody asked for, such as gender, read from the activations of a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedjax_face.attacks.error_rates import (
    LEVEL,
    Bound,
    Guess,
    guesses,
    largest_binary_accuracy,
    unbounded,
)


def linear_probe(received: np.ndarray, attribute: np.ndarray, ridge: float
                 ) -> Callable[[np.ndarray], np.ndarray]:
  """Ridge regression of a trait on activations, as +-1.

  Args:
    received: float [N, ...] of public pictures, noised as those under attack are.
    attribute: bool [N].
    ridge: penalty over the mean squared norm of the centred activations, > 0.

  Returns:
    float [B, ...] -> bool [B].

  Raises:
    ValueError: pictures of one kind only, or a penalty that is not positive.
  """
  rows, truth = _rows(received), np.asarray(attribute, bool)
  if len(rows) != len(truth) or truth.all() or not truth.any():
    raise ValueError(f"{len(rows)} activations and {len(truth)} attributes, {int(truth.sum())} of "
                     "them set; expected as many, of both kinds")
  if not ridge > 0:
    raise ValueError(f"ridge {ridge}: expected a positive number")
  mean, sign = rows.mean(axis=0), np.where(truth, 1.0, -1.0)
  centred = rows - mean
  penalty = ridge * np.sum(centred**2) / len(rows)
  if centred.shape[1] <= len(rows):
    gram = centred.T @ centred + penalty * np.eye(centred.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (sign - sign.mean()))
  else:
    gram = centred @ centred.T + penalty * np.eye(len(rows))
    weights = centred.T @ np.linalg.solve(gram, sign - sign.mean())
  return lambda activations: (_rows(activations) - mean) @ weights + sign.mean() > 0


def attribute_attack(public: np.ndarray, public_attribute: np.ndarray, received: np.ndarray,
                     attribute: np.ndarray, *, ridge: float, bound: Bound = unbounded,
                     level: float = LEVEL) -> Guess:
  """Trains a linear probe on public pictures and reads the trait of others.

  Args:
    public: float [N, ...], activations of public pictures, noised as the others are.
    public_attribute: bool [N].
    received: float [B, ...], activations under attack; one picture a person.
    attribute: bool [B].
    ridge: see `linear_probe`.
    bound: of the mechanism between any two pictures.
    level: of the interval.

  Returns:
    Guess; chance is the share of the more frequent kind.
  """
  truth = np.asarray(attribute, bool)
  guessed = linear_probe(public, public_attribute, ridge)(received)
  share = float(truth.mean())
  return guesses(guessed == truth, max(share, 1 - share), largest_binary_accuracy(share, bound),
                 level)


def _rows(activations: np.ndarray) -> np.ndarray:
  return np.asarray(activations, np.float64).reshape(len(activations), -1)
