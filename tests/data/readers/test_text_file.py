import codecs

import pytest

from fedjax_face.data.readers import lfw, template_lists, text_file

PAIRS = "1\t1\nAnn\t1\t2\nAnn\t1\tZoë\t1\n"
MARKED = {"utf-8": b"", "utf-8-sig": b"", "utf-16": b"", "utf-16-le": codecs.BOM_UTF16_LE,
          "utf-16-be": codecs.BOM_UTF16_BE, "utf-32": b""}


@pytest.mark.parametrize("encoding", MARKED)
def test_text_is_utf_8_or_what_its_mark_says(tmp_path, encoding):
  path = tmp_path / "pairs.txt"
  path.write_bytes(MARKED[encoding] + PAIRS.encode(encoding))
  assert text_file.read_text(path) == PAIRS
  assert [pair.second for pair in lfw.parse_pairs(path)] == [("Ann", 2), ("Zoë", 1)]


@pytest.mark.parametrize("content, words", [
    (PAIRS.encode("latin-1"), "byte 20 is no UTF-8; save it as UTF-8 text"),
    (b"1 1\0", "holds a zero byte"), (codecs.BOM_UTF16_LE + b"\x00\xd8", "is no UTF-16")])
@pytest.mark.parametrize("read", [
    text_file.read_text, text_file.read_table, text_file.read_json, lfw.parse_pairs,
    template_lists.read_templates], ids=lambda read: read.__name__)
def test_anything_else_is_refused_by_name_in_one_line(tmp_path, read, content, words):
  path = tmp_path / "list"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=words) as error:
    read(path)
  assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_tables_have_a_header_and_rows(tmp_path):
  path = tmp_path / "images.csv"
  path.write_text('file,person\n"a,1.png",Ann\nb.png\n', encoding="utf-8-sig")
  assert text_file.read_table(path) == (("file", "person"), [
      {"file": "a,1.png", "person": "Ann"}, {"file": "b.png", "person": ""}])
  path.write_text("")
  with pytest.raises(ValueError, match="empty; expected a header"):
    text_file.read_table(path)
  path.write_text('file\n"' + "x" * 200_000)
  with pytest.raises(ValueError, match="after line 1: field larger"):
    text_file.read_table(path)


@pytest.mark.parametrize("content, words", [
    ("{", "line 1: Expecting"), ("[" * 100_000, "nested too deeply"), ("", "line 1: Expecting")])
def test_what_is_no_json_is_refused_by_name(tmp_path, content, words):
  path = tmp_path / "part.json"
  path.write_text(content)
  with pytest.raises(ValueError, match=words) as error:
    text_file.read_json(path)
  assert str(path) in str(error.value)
