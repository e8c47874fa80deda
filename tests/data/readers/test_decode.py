import numpy as np
import pytest

from fedjax_face.data.readers import decode
from fedjax_face.data.readers.decode import ReadReport, decode_image, decode_images, settle
from tests.data.conftest import encoded


@pytest.mark.parametrize("kind, mode", [("PNG", "RGB"), ("PNG", "L"), ("PPM", "L"), ("BMP", "RGB")])
@pytest.mark.parametrize("channels", [1, 3])
def test_decodes_any_format_into_the_channels_asked_for(kind, mode, channels):
  pixels = decode_image(encoded(90, 5, kind, mode), channels=channels)
  assert pixels.dtype == np.uint8 and pixels.shape == (5, 5, channels)
  assert (pixels == 90).all()


@pytest.mark.parametrize("size", [3, 40])
def test_scales_to_the_size_asked_for(size):
  pixels = decode_image(encoded(90, 64, "JPEG"), size=size)
  assert pixels.shape == (size, size, 3)
  np.testing.assert_allclose(pixels, 90, atol=1)


@pytest.mark.parametrize("content, message", [
    (b"", "empty file"), (b"hello", "not an image"),
    (encoded(7, 64, "JPEG")[:300], "broken image|not an image"),
    (encoded(7, 64)[:60], "broken image|not an image")])
def test_broken_content_is_refused(content, message):
  with pytest.raises(ValueError, match=message):
    decode_image(content)
  with pytest.raises(ValueError, match="channels is 2"):
    decode_image(encoded(), channels=2)


def test_decode_images_keeps_order_and_counts_the_bad():
  content = {"a": encoded(1), "b": b"junk", "c": encoded(3)}

  def read(name):
    if name not in content:
      raise FileNotFoundError(name)
    return content[name]

  images, rows, bad = decode_images("here", ["c", "b", "x", "a"], read)
  np.testing.assert_array_equal(images[:, 0, 0, 0], [3, 1])
  np.testing.assert_array_equal(rows, [0, 3])
  assert bad == [("b", "not an image"), ("x", "missing")]
  with pytest.raises(ValueError, match=r"here: no readable image among 1 file\(s\) \(b: not an"):
    decode_images("here", ["b"], read)


def test_different_shapes_need_a_size():
  content = {"a": encoded(1, 4), "b": encoded(2, 6)}
  with pytest.raises(ValueError, match=r"b is \[6, 6, 3\] but .* \[4, 4, 3\]; give a size"):
    decode_images("here", ["a", "b"], content.__getitem__)
  assert decode_images("here", ["a", "b"], content.__getitem__, size=5)[0].shape == (2, 5, 5, 3)


def test_skipped_files_are_never_silent():
  report = ReadReport("here", skipped=tuple((f"f{i}", "not an image") for i in range(5)))
  with pytest.warns(UserWarning, match="here: skipped 5: f0: not an image; .*; and 2 more"):
    assert settle(report, "skip") is report
  with pytest.raises(ValueError, match=r"here: 5 bad file\(s\), first f0: not an image"):
    settle(report, "refuse")
  with pytest.raises(ValueError, match="on_bad is 'ignore'; expected 'skip' or 'refuse'"):
    settle(ReadReport("here"), "ignore")


def test_images_that_no_memory_holds_are_refused_in_one_line():
  with pytest.raises(ValueError, match=r"here: 1,000,000,000 images of \[9000, 9000, 3\] are "
                     ".* GiB, more than there is memory for; give a size to scale to"):
    decode._room("here", 10**9, (9000, 9000, 3))


def test_remarks_are_said_with_what_was_skipped():
  assert str(ReadReport("a\nb", remarks=("one", "two"))) == r"a\nb: one; two"
  assert str(ReadReport("here", (), (("f", "bad"),), ("one",))) == "here: skipped 1: f: bad; one"
