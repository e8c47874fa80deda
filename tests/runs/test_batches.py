import numpy as np
import pytest

from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Data
from fedjax_face.runs import batches
from fedjax_face.runs.batches import Span
from tests.runs.toys import IMAGES, toy_algorithm

ROOT = bytes(32)


def test_spans_end_at_multiples_of_every_period():
  assert batches.spans(0, 10, 4, (3, 0)) == [(0, 3), (3, 4), (4, 6), (6, 8), (8, 9), (9, 10)]


def test_spans_of_a_resumed_run_are_those_of_the_whole_run():
  whole = batches.spans(0, 23, 5, (4, 7))
  for start in {span.start for span in whole}:
    assert batches.spans(start, 23, 5, (4, 7)) == [s for s in whole if s.start >= start]


def test_spans_needs_a_size():
  with pytest.raises(ValueError, match="rounds_per_dispatch=0"):
    batches.spans(0, 3, 0)


def test_gathered_rows_are_the_images_that_the_cohort_named():
  cohorts = batches.host_batch(toy_algorithm().cohort, Draws.of(0), Span(2, 4), 3)
  numbers = np.arange(len(IMAGES))
  renumbered, rows = batches.gather(Data(IMAGES, {"number": numbers}), cohorts)
  assert rows.images.shape == (3, 4, 2, 2, 1)
  assert renumbered.examples.shape == cohorts.examples.shape
  for r in range(3):
    np.testing.assert_array_equal(rows.images[r][renumbered.examples[r]],
                                  IMAGES[cohorts.examples[r]])
    np.testing.assert_array_equal(rows.targets["number"][r][renumbered.examples[r]],
                                  cohorts.examples[r])


def test_host_batch_depends_on_the_round_only_and_pads_with_zeros():
  cohort = toy_algorithm().cohort
  together, alone = (batches.host_batch(cohort, Draws.of(0), span, 3)
                     for span in (Span(2, 4), Span(3, 4)))
  np.testing.assert_array_equal(together.examples[1], alone.examples[0])
  assert not together.mask[2].any() and together.mask[:2].all()


def test_prefetch_keeps_order_and_passes_errors_on():
  assert list(batches.prefetch(lambda x: x * 2, range(5))) == [0, 2, 4, 6, 8]
  assert list(batches.prefetch(lambda x: x, [])) == []
  with pytest.raises(ZeroDivisionError):
    list(batches.prefetch(lambda x: 1 // x, [1, 0]))
