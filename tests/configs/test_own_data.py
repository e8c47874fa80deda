"""Variants that read data of one's own, on stand-ins painted here; nothing is trained."""

import importlib

import pytest

from fedjax_face.runs import asked
from fedjax_face.runs.asked import Asked
from tests.data.conftest import encoded

SYSTEMS = ("dp_fedemb", "fedgc", "fedproto", "privacyface", "composed", "dp_activations")


def read(name, variant, **said):
  config = importlib.import_module(f"configs.{name}").get_config(variant)
  return Asked.of_config(asked.changed(config, said))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Thirty people of two images."""
  place = tmp_path_factory.mktemp("own")
  for person in range(30):
    (place / f"p{person}").mkdir()
    for image in range(2):
      (place / f"p{person}" / f"{image}.png").write_bytes(encoded(4 * person + image))
  return place


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_folder_trains_every_system_of_faces(name, folder):
  call = read(name, "folder", **{"data.path": str(folder), "data.size": 8, "start": None,
                                 "data.public": None})
  made = call.data.sources
  if name == "dp_activations":
    assert made.train.num_persons == made.evaluation.num_persons == 30
  else:
    assert made.train.num_persons + made.evaluation.num_persons == 30
    assert not set(made.train.names) & set(made.evaluation.names)


@pytest.mark.parametrize("variant", ["gld", "inaturalist"])
def test_contributors_are_protected_and_what_they_took_is_recognised(variant, folder):
  """Thirty classes by twelve contributors; those of the evaluation are unseen."""
  rows = [f"p{p}/{i}.png,user{(7 * p + i) % 12},class{p}" for p in range(30) for i in range(2)]
  path = folder / f"{variant}.csv"
  path.write_text("\n".join(["path,person,label", *rows]) + "\n")
  call = read("dp_fedemb", variant, **{"data.path": str(path), "data.size": 8})
  made = call.data.sources
  assert not set(made.train.names) & set(made.evaluation.names)
  assert len(made.train.names) + len(made.evaluation.names) == 30
  assert made.train.num_persons == 12 and not made.train.persons_are_labels
  assert set(made.train.person_names) == {f"user{u}" for u in range(12)}
  pixels = made.train.images[:, 0, 0, 0]
  assert [made.train.names[k] for k in made.train.label] == [f"class{v // 4}" for v in pixels]
  assert made.evaluates_training_people and "of people who" in made.not_covered[0]
  assert call.record["data"]["size"] == 8 and read("dp_fedemb", variant, **{
      "data.path": "HERE"}).record["data"]["size"] == 224
