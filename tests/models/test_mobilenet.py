from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models import mobilenet
from fedjax_face.models.convolution import Conv


def test_blocks_are_the_published_table():
  rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
          (6, 320, 1, 1)]
  expected = [(t, c, s if i == 0 else 1) for t, c, n, s in rows for i in range(n)]
  assert list(mobilenet.MOBILENET_V2_BLOCKS) == expected
  assert mobilenet.mobile_small().blocks == tuple(expected[:6])


@pytest.mark.parametrize(("size", "before"), [(8, 0), (9, 1)])
def test_padding_before_stride_two(size, before):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(1, size, size, 4)), jnp.float32)
  same = Conv(4, (3, 3), (2, 2), "SAME", feature_group_count=4, use_bias=False)
  params = {"params": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)}}
  padded = jnp.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
  valid = Conv(4, (3, 3), (2, 2), "VALID", feature_group_count=4, use_bias=False)
  np.testing.assert_allclose(same.apply(params, x), valid.apply(params, padded), rtol=1e-5,
                             atol=1e-5)


@pytest.mark.parametrize(("channels", "width", "expected"), [
    (32, 1.0, 32), (16, 0.5, 8), (24, 0.75, 24), (32, 0.35, 16), (16, 0.1, 8), (1280, 1.4, 1792)])
def test_scaled_channels(channels, width, expected):
  assert mobilenet._scaled(channels, width) == expected


def test_width_below_one_keeps_the_last_convolution():
  small = mobilenet.MobileNetV2(8, width=0.5, blocks=((1, 16, 1), (6, 24, 2)), last_channels=64)
  params = jax.eval_shape(small.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
  kernels = {name: params[name]["conv"]["kernel"].shape for name in ("stem", "last")}
  assert kernels == {"stem": (3, 3, 3, 16), "last": (1, 1, 16, 64)}
