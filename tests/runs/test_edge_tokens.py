"""A token for each device: made, handed over, kept as a digest, replaced, damaged."""

import json
import os

import pytest

from fedjax_face.edge import wire
from fedjax_face.runs import edge_tokens


def kept_of(token):
  return wire.kept_digest(wire.token_digest(token))


def test_tokens_are_made_once_and_only_digests_are_kept(tmp_path):
  server, folder = tmp_path / "server", tmp_path / "tokens"
  server.mkdir()
  assert edge_tokens.kept(server, 2) == {} and not edge_tokens.are_asked_for(server, None)
  known = edge_tokens.kept(server, 2, folder)
  tokens = [edge_tokens.read(folder / str(device)) for device in (0, 1)]
  assert known == {device: kept_of(token) for device, token in enumerate(tokens)}
  assert tokens[0] != tokens[1] and {len(bytes.fromhex(token)) for token in tokens} == {32}
  modes = [path.stat().st_mode & 0o777 for path in (
      folder, folder / "0", folder / "1", server / "tokens.json")]
  assert modes == [0o700, 0o600, 0o600, 0o600]
  text = (server / "tokens.json").read_text()
  for token in tokens:
    assert token not in text and wire.token_digest(token).hex() not in text
  for device in (0, 1):  # handed over
    (folder / str(device)).unlink()
  assert edge_tokens.kept(server, 2) == edge_tokens.kept(server, 2, folder) == known
  assert edge_tokens.are_asked_for(server, None) and not list(folder.iterdir())


def test_a_token_that_is_given_replaces_its_devices(tmp_path):
  known = edge_tokens.kept(tmp_path, 2, tmp_path / "tokens")
  with os.fdopen(os.open(tmp_path / "tokens/1", os.O_WRONLY | os.O_TRUNC), "w") as file:
    file.write("chosen by hand, long enough\n")
  again = edge_tokens.kept(tmp_path, 2, tmp_path / "tokens")
  assert again == {0: known[0], 1: kept_of("chosen by hand, long enough")} != known
  assert edge_tokens.kept(tmp_path, 2) == again


def test_what_is_no_secret_is_refused(tmp_path):
  path = tmp_path / "token"
  path.write_text("long enough to be one")
  path.chmod(0o640)
  with pytest.raises(ValueError, match="is open to others .*mode 0640, expected 0600"):
    edge_tokens.read(path)
  path.chmod(0o600)
  assert edge_tokens.read(path) == "long enough to be one"
  path.write_text("short\n")
  with pytest.raises(ValueError, match="holds 5 characters: expected 16 or more"):
    edge_tokens.read(path)
  with pytest.raises(OSError, match="token .*absent: No such file"):
    edge_tokens.read(tmp_path / "absent")


@pytest.mark.parametrize("text", ["{", "[]", '{"0": 7}', json.dumps({"0": "ab" * 32})])
def test_digests_that_cannot_be_read_are_one_line(text, tmp_path):
  (tmp_path / "tokens.json").write_text(text)
  with pytest.raises(ValueError, match="tokens.json is damaged.*--tokens=FOLDER") as error:
    edge_tokens.kept(tmp_path, 2)
  assert "\n" not in str(error.value)
