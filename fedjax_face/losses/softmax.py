"""Softmax cross-entropy over the real examples of a padded batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_face.losses.beside import Negatives


def masked_cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array,
                         num_classes: int | jax.Array | None = None,
                         negatives: Negatives | None = None,
                         held: jax.Array | None = None,
                         ) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Mean softmax cross-entropy over real examples.

  A padded row adds exactly zero to the loss and to the gradient of `logits`, whatever it holds; a
  batch of padding has loss 0 and gradient 0.

  Args:
    logits: float [B, C].
    labels: int [B], 0 <= label < num_classes for real examples; any value for padding.
    mask: bool [B], True for real examples.
    num_classes: classes in use, the first of the C columns; the others get probability 0. May be
      traced. None uses all.
    held: bool [C], classes that count; the others get probability 0 too. None counts all.
    negatives: further mass in every example's denominator, and a penalty; None for none.

  Returns:
    The mean loss (0 where no example is real), and 'accuracy' (the fraction of real examples whose
    largest logit is the label's; a margin in the logits lowers it; 0 where none is real) and
    'count' (real examples), all float32 scalars.
  """
  columns = jnp.arange(logits.shape[-1])
  if num_classes is not None:
    logits = jnp.where(columns < num_classes, logits, jnp.finfo(logits.dtype).min)
  if held is not None:
    logits = jnp.where(held, logits, jnp.finfo(logits.dtype).min)
  logits = jnp.where(mask[:, None], logits, 0)
  label_logits = jnp.sum(jnp.where(labels[:, None] == columns, logits, 0), axis=-1)
  log_mass = jax.nn.logsumexp(logits, axis=-1)
  if negatives is not None:
    log_mass = jnp.logaddexp(log_mass, negatives.log_mass) + negatives.penalty
  losses = jnp.where(mask, log_mass - label_logits, 0)
  correct = mask & (jnp.argmax(logits, axis=-1) == labels)
  count = jnp.sum(mask, dtype=jnp.float32)
  divisor = jnp.maximum(count, 1)
  metrics = {"accuracy": jnp.sum(correct, dtype=jnp.float32) / divisor, "count": count}
  return jnp.sum(losses) / divisor, metrics
