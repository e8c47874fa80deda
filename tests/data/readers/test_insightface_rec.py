import struct

import numpy as np
import pytest

from fedjax_face.data.readers.insightface_rec import read_rec
from tests.data.conftest import encoded

MAGIC = struct.pack("<I", 0xced7230a)


def part(flag, content):
  """One part of a record."""
  return MAGIC + struct.pack("<I", flag << 29 | len(content)) + content + bytes(-len(content) % 4)


def framed(content):
  """A record, cut wherever the magic number stands at a multiple of 4."""
  cuts = [i for i in range(0, len(content) - 3, 4) if content[i:i + 4] == MAGIC]
  if not cuts:
    return part(0, content)
  starts, ends = [0, *(i + 4 for i in cuts)], [*cuts, len(content)]
  flags = [1, *[2] * (len(cuts) - 1), 3]
  return b"".join(part(f, content[a:b]) for f, a, b in zip(flags, starts, ends, strict=True))


def packed(labels, image=b"", number=0):
  """The content of a record; a tuple of labels goes after the header, a number into it."""
  if isinstance(labels, tuple):
    header = struct.pack("<IfQQ", len(labels), 0, number, 0)
    return header + struct.pack(f"<{len(labels)}f", *labels) + image
  return struct.pack("<IfQQ", 0, labels, number, 0) + image


def write_records(folder, contents, classes=None):
  """Writes records 0, 1, ... and their index; returns the offsets."""
  offsets, rec = [], b""
  for content in contents:
    offsets.append(len(rec))
    rec += framed(content)
  (folder / "train.rec").write_bytes(rec)
  write_index(folder, dict(enumerate(offsets)))
  if classes:
    (folder / "property").write_text(f"{classes},8,8\n")
  return offsets


def write_index(folder, offsets):
  (folder / "train.idx").write_text("".join(f"{k}\t{v}\n" for k, v in offsets.items()))


def write_rec(folder, rows, classes=None):
  """A set of (label or labels, image file), with the header and the identity records it needs."""
  first = len(rows) + 1
  people = sorted({label[0] if isinstance(label, tuple) else label for label, _ in rows})
  return write_records(folder, [packed((first, first + len(people))),
                                *(packed(label, image) for label, image in rows),
                                *(packed((1., 2.), number=first + i) for i in range(len(people)))],
                       classes)


ROWS = [(0, encoded(10, kind="JPEG")), (0, encoded(20)), (2, encoded(30, kind="JPEG")),
        ((1, 0), encoded(40))]


def test_reads_images_and_labels_but_not_the_identity_records(tmp_path):
  write_rec(tmp_path, ROWS, classes=3)
  data, report = read_rec(tmp_path, on_bad="refuse")
  assert data.images.shape == (4, 8, 8, 3) and data.name == tmp_path.name and data.names == ()
  np.testing.assert_array_equal(data.label, [0, 0, 2, 1])
  np.testing.assert_array_equal(data.person, data.label)
  np.testing.assert_allclose(data.images[:, 0, 0, 0], [10, 20, 30, 40], atol=1)
  assert report.skipped == () and report.source.endswith("train.rec")
  small, _ = read_rec(str(tmp_path), size=4, channels=1, limit=3)
  assert small.images.shape == (3, 4, 4, 1)
  with pytest.raises(ValueError, match="limit is 0; expected at least 1"):
    read_rec(tmp_path, limit=0)


def test_a_record_that_contains_the_magic_number_is_put_together(tmp_path):
  # an uncompressed bitmap of 2 x 2 pixels, each of which is the magic number
  bitmap = (b"BM" + struct.pack("<IHHI", 72, 0, 0, 56)
            + struct.pack("<IiiHHIIiiII", 40, 2, -2, 1, 32, 0, 16, 0, 0, 0, 0) + bytes(2)
            + MAGIC * 4)
  write_records(tmp_path, [packed((3, 4)), packed((6, 0), bitmap), packed(7, bitmap + b"tail")])
  rec = (tmp_path / "train.rec").read_bytes()
  flags = [struct.unpack_from("<I", rec, i + 4)[0] >> 29
           for i in range(0, len(rec), 4) if rec[i:i + 4] == MAGIC]
  assert flags == [0, 1, 2, 2, 2, 3, 1, 2, 2, 2, 3]
  data, report = read_rec(tmp_path, on_bad="refuse")
  assert (data.images == [0xd7, 0x23, 0x0a]).all() and data.images.shape == (2, 2, 2, 3)
  np.testing.assert_array_equal(data.label, [6, 7])
  assert report.skipped == ()


def test_plain_image_records_without_a_header_record(tmp_path):
  write_records(tmp_path, [packed(3, encoded(10)), packed(1, encoded(20))])
  data, _ = read_rec(tmp_path)
  np.testing.assert_array_equal(data.label, [3, 1])
  np.testing.assert_array_equal(data.images[:, 0, 0, 0], [10, 20])


def test_bad_records_are_skipped_counted_and_warned_about(tmp_path):
  rows = [*ROWS, (1, b"junk"), (1, encoded(60, 64, "JPEG")[:-99]), (3, encoded(70)),
          (.5, encoded(80)), (-1, encoded(90)), (float("nan"), encoded(95)), (1, b"")]
  offsets = write_rec(tmp_path, rows, classes=3)
  expected = {5: "not an image", 6: "broken image", 7: "label 3; expected 0 to 2",
              8: "label 0.5", 9: "label -1", 10: "label nan", 11: "empty file"}
  with pytest.warns(UserWarning, match="skipped 7"):
    data, report = read_rec(tmp_path)
  assert len(data) == 4
  reasons = {int(name.split()[1]): reason for name, reason in report.skipped}
  assert set(reasons) == set(expected)
  assert all(reasons[key].startswith(reason) for key, reason in expected.items())
  with pytest.raises(ValueError, match=r"7 bad file\(s\), first record 7: label 3"):
    read_rec(tmp_path, on_bad="refuse")
  write_index(tmp_path, {k: v for k, v in enumerate(offsets) if k not in (2, 5, 6)})
  with pytest.warns(UserWarning, match=r"3 image record\(s\): not in train.idx"):
    data, _ = read_rec(tmp_path)
  np.testing.assert_array_equal(data.label, [0, 2, 1])


def test_a_person_with_no_readable_image_is_named(tmp_path):
  write_rec(tmp_path, [(0, encoded(1)), (7, b"junk")])
  with pytest.warns(UserWarning, match="person 7: person with no readable image"):
    read_rec(tmp_path)


def test_headers_that_are_cut_off_are_bad_records(tmp_path):
  announces = struct.pack("<IfQQ", 2 ** 31, 0, 0, 0)
  write_records(tmp_path, [packed((4, 5)), packed(0, encoded(1)), b"short", announces])
  with pytest.warns(UserWarning) as warned:
    read_rec(tmp_path)
  assert "record 2: header of 5 bytes; expected 24" in str(warned[0].message)
  assert "record 3: header that announces 2147483648 labels in 24 bytes" in str(warned[0].message)


@pytest.mark.parametrize("lost", [1, 30, 60, 200])
def test_a_file_that_is_cut_off_is_refused_in_one_line(tmp_path, lost):
  write_rec(tmp_path, ROWS)
  rec = tmp_path / "train.rec"
  rec.write_bytes(rec.read_bytes()[:-lost])
  for limit in (None, 1):
    with pytest.raises(ValueError, match="train.rec is cut off: record") as error:
      read_rec(tmp_path, limit=limit)
    assert "\n" not in str(error.value)


def test_records_that_are_not_where_the_index_says_are_refused(tmp_path):
  offsets = write_rec(tmp_path, ROWS)
  write_index(tmp_path, {k: v + 4 * (k == 2) for k, v in enumerate(offsets)})
  with pytest.raises(ValueError, match=rf"record 2 at byte {offsets[2] + 4} starts with .*; "
                                       "expected 0a23d7ce"):
    read_rec(tmp_path)
  rec = (tmp_path / "train.rec").read_bytes()
  for flag, place in ((2, 0), (3, 0), (5, 0), (1, 1)):
    word = struct.pack("<I", flag << 29 | struct.unpack_from("<I", rec, offsets[2] + 4)[0])
    (tmp_path / "train.rec").write_bytes(rec[:offsets[2] + 4] + word + rec[offsets[2] + 8:])
    write_index(tmp_path, dict(enumerate(offsets)))
    with pytest.raises(ValueError, match=f"record 2 has a part of flag .* in place {place}"):
      read_rec(tmp_path)


@pytest.mark.parametrize("file, content, message", [
    ("train.rec", b"", "train.rec is empty"),
    ("train.rec", b"junk" * 500, "starts with 6a756e6b"),
    ("train.idx", b"", "record 0 is missing among 0"),
    ("train.idx", b"1\t0\n", "record 0 is missing among 1"),
    ("train.idx", b"0\t0\n0\t8\n", r"line 2 is '0\\t8'"),
    ("train.idx", b"0\t0\nx\t8\n", "line 2 is .* expected a new record number and a byte"),
    ("train.idx", b"0\t0\n1\t-8\n", "line 2 is"),
    ("train.idx", b"0\t0\n", "identities start at record 5; expected 2 to 1"),
    ("property", b"3,8\n", "property is '3,8'; expected classes,height,width"),
    ("property", b"0,8,8", "property is '0,8,8'"),
])
def test_other_files_are_refused_in_one_line(tmp_path, file, content, message):
  write_rec(tmp_path, ROWS)
  (tmp_path / file).write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    read_rec(tmp_path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [(1, 2), (99, 100), (2.5, 3), (float("nan"), 1),
                                    (float("inf"), 1), 0])
def test_a_header_record_that_makes_no_sense_is_refused(tmp_path, labels):
  write_records(tmp_path, [packed(labels), packed(0, encoded(1))])
  with pytest.raises(ValueError, match="record 0 says that identities start at record"):
    read_rec(tmp_path)
  write_records(tmp_path, [b"short", packed(0, encoded(1))])
  with pytest.raises(ValueError, match="record 0 has a header of 5 bytes"):
    read_rec(tmp_path)


@pytest.mark.parametrize("file", ["train.rec", "train.idx"])
def test_missing_files_are_named(tmp_path, file):
  write_rec(tmp_path, ROWS)
  (tmp_path / file).unlink()
  with pytest.raises(FileNotFoundError, match=f"{file} does not exist"):
    read_rec(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark_are_read(tmp_path, encoding):
  write_rec(tmp_path, ROWS, classes=3)
  for name in ("train.idx", "property"):
    (tmp_path / name).write_text((tmp_path / name).read_text(), encoding=encoding)
  assert len(read_rec(tmp_path, on_bad="refuse")[0]) == 4


@pytest.mark.parametrize("line", ["1\t\u00b2\n", "1\t" + "9" * 5000 + "\n", "1\t-5\n", "x\0\t1\n"])
def test_other_lines_of_an_index_are_refused_in_one_line(tmp_path, line):
  write_rec(tmp_path, ROWS)
  (tmp_path / "train.idx").write_text(line)
  with pytest.raises(ValueError, match="train.idx: ") as error:
    read_rec(tmp_path)
  assert len(str(error.value).splitlines()) == 1
