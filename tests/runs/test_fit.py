"""The front door: what `fit` returns, keeps, resumes and refuses."""

import json
import math

import flax.linen as nn
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data import image_source


class OneLayer(nn.Module):
  """A backbone of one's own that compiles in no time."""

  embedding_dim: int = 4

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.embedding_dim)(x.reshape(len(x), -1))


def photographs(people, seed=0):
  rng = np.random.default_rng(seed)
  person = np.repeat([f"{seed}-{p:02d}" for p in range(people)], 3)
  return ff.faces(rng.integers(0, 256, (len(person), 4, 4, 1), np.uint8), person, name="mine")


def sources():
  return photographs(16).split(evaluation=0.4, public=photographs(6, seed=1))


def method(**changes):
  return ff.dp_fedemb(**({
      "backbone": OneLayer(), "clients": ff.virtual_clients(per_round=2, users_per_client=2),
      "local": ff.local_steps(epochs=1)} | changes))


SHORT = {"rounds": 4, "privacy": ff.budget(epsilon=8.0, delta=1e-3),
         "evaluation": ff.protocols(fars=(0.1,), bootstrap=10),
         "compute": ff.compute(rounds_per_dispatch=2, checkpoint_every=2)}


def fit(chosen=None, data=None, **changes):
  return ff.fit(chosen or method(), data or sources(), **(SHORT | changes))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """A run in a folder, which starts from public people."""
  place = tmp_path_factory.mktemp("runs") / "first"
  return fit(start=ff.pretrain(ff.centralized(), rounds=2), workdir=place)


@pytest.fixture(scope="module")
def remembered():
  """A run that wrote nothing."""
  return fit()


def test_a_run_says_what_it_measured_and_revealed(remembered):
  assert remembered.rounds == 4 and remembered.workdir is None
  assert list(remembered.references) == ["untrained start", "raw pixels"]
  assert 7.5 < remembered.epsilon <= 8.0
  columns = remembered.metrics
  assert columns["round"].tolist() == [0, 1, 2, 3, 4] and np.isfinite(columns["loss"][1:]).all()
  assert np.isfinite(columns["recall_all_pairs@far=0.1"][[0, 4]]).all()
  assert "each person" in remembered.statement and "replace-one" in remembered.statement
  assert "run of dp_fedemb, 4 rounds, epsilon 8" in repr(remembered).replace("7.99", "8")


def test_without_a_workdir_nothing_is_written(tmp_path, monkeypatch, remembered):
  monkeypatch.chdir(tmp_path)
  for progress in ff.rounds(method(), sources(), rounds=2, privacy=SHORT["privacy"]):
    assert progress.metrics["clients"] == 2
  assert progress.round == 2 and not list(tmp_path.iterdir())
  assert set(remembered.figures()) == {"training", "roc", "det"}


def test_embeddings_are_unit_vectors_of_images_like_those_of_the_training_set(remembered):
  found = remembered.embed(sources().evaluation.images)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
  assert remembered.embed(np.zeros((0, 4, 4, 1), np.uint8)).size == 0
  late = image_source.MappedImages(sources().evaluation.images)
  np.testing.assert_array_equal(remembered.embed(late), found)
  with pytest.raises(ValueError, match=r"uint8 \[N, 4, 4, 1\]"):
    remembered.embed(np.zeros((2, 5, 4, 1), np.uint8))


def test_a_folder_holds_what_memory_would(kept):
  for name in ("config.json", "metrics.csv", "summary.json", "PRIVACY.md", "privacy.json"):
    assert (kept.workdir / name).exists(), name
  said = json.loads((kept.workdir / "config.json").read_text())
  assert said["method"]["name"] == "dp_fedemb" and said["method"]["clients"]["per_round"] == 2
  assert said["data"] == {"by_hand": repr(ff.Sources.__name__)[1:-1] + said["data"]["by_hand"][7:]}
  assert said["start"]["method"]["backbone"] == said["method"]["backbone"]  # of the run's method
  assert "noise_multiplier" in said["method"]["aggregate"]  # said by nobody, so recorded as None
  assert said["method"]["aggregate"]["noise_multiplier"] is None
  assert "taken as public" in kept.statement or "public" in kept.statement
  assert kept.metrics["round"].tolist() == [0, 1, 2, 3, 4]
  assert set(kept.figures()) == {"training", "roc", "det"}


def test_the_same_call_again_is_the_run_as_it_is(kept):
  before = (kept.workdir / "metrics.csv").read_bytes()
  again = fit(start=ff.pretrain(ff.centralized(), rounds=2), workdir=kept.workdir,
              evaluation=ff.protocols(fars=(0.1,), bootstrap=5))  # how it is judged may differ
  assert (kept.workdir / "metrics.csv").read_bytes() == before
  images = sources().evaluation.images
  np.testing.assert_array_equal(again.embed(images), kept.embed(images))


def test_another_call_on_the_folder_is_refused(kept):
  for changes, name in (({"chosen": method(head=ff.arcface())}, "method.head.name"),
                        ({"seed": 1}, "seed"), ({"privacy": ff.budget(epsilon=4.0)}, "epsilon")):
    with pytest.raises(ValueError, match=name):
      fit(start=ff.pretrain(ff.centralized(), rounds=2), workdir=kept.workdir, **changes)


def test_load_finds_the_run_and_asks_for_what_no_config_holds(kept):
  given = {"method.backbone": OneLayer(), "start.method.backbone": OneLayer()}
  found = ff.load(kept.workdir, data=sources(), given=given)
  images = sources().evaluation.images
  np.testing.assert_array_equal(found.embed(images), kept.embed(images))
  assert found.epsilon == kept.epsilon and found.statement == kept.statement
  assert found.evaluate(["recall_all_pairs"]).keys() >= {"recall_all_pairs@far=0.1"}
  asked = ff.protocols(("identification",), fars=(0.1,), bootstrap=0)
  assert "identification/rank1" in found.evaluate(asked)
  with pytest.raises(ValueError, match="dp_fedemb is not judged so: expected names of protocols"):
    found.evaluate(ff.evaluations.classification())
  with pytest.raises(ValueError, match="method.backbone .OneLayer., start.method.backbone"):
    ff.load(kept.workdir, data=sources())
  with pytest.raises(FileNotFoundError, match="no run is kept there"):
    ff.load(kept.workdir / "nowhere")


def test_an_interrupted_run_ends_as_it_would_have(tmp_path):
  """Without privacy the seed decides everything, so that two runs can be compared."""
  open_ = {"chosen": method(aggregate=ff.coordinate_median(), server=ff.fedyogi()),
           "privacy": ff.budget(), "workdir": tmp_path / "a"}

  def stop(done, metrics):
    if done == 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    fit(**open_, callbacks=[stop])
  whole = fit(**open_ | {"workdir": tmp_path / "b"})
  resumed = fit(**open_)
  images = sources().evaluation.images
  np.testing.assert_array_equal(resumed.embed(images), whole.embed(images))
  assert resumed.epsilon == float("inf")


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_callback_may_end_training_and_the_statement_says_so(tmp_path, where):
  seen = []

  def stop(done, metrics):
    seen.append((done, metrics["clients"]))
    metrics["clients"] = 0.0  # its own copy
    return np.bool_(done >= 2)

  run = fit(callbacks=[stop], workdir=tmp_path / "run" if where == "folder" else None)
  assert run.rounds == 2 and seen == [(2, 2.0)] and run.epsilon < 8.0
  assert run.metrics["clients"][1:].tolist() == [2.0, 2.0]
  assert "could stop training by them" in run.statement
  if where == "folder":
    assert fit(workdir=tmp_path / "run").rounds == 2  # it has ended
    (run.workdir / "summary.json").unlink()  # as if killed before the end was written
    again = fit(workdir=tmp_path / "run")
    images = sources().evaluation.images
    np.testing.assert_array_equal(again.embed(images), run.embed(images))
    assert again.rounds == 2 and "could stop training by them" in again.statement
    with pytest.raises(ValueError, match="rounds cannot grow|ended this run after round 2"):
      fit(workdir=tmp_path / "run", rounds=6)


def test_a_config_is_the_same_call_written_down(kept):
  config = {"method": {"name": "fedavg", "head": {"name": "arcface", "margin": 0.2},
                       "clients": {"per_round": 4}},
            "data": {"name": "synthetic_faces", "people": 40}, "rounds": 3,
            "privacy": {"epsilon": 2.0}, "start": {"method": {"name": "centralized"}}}
  said = ff.from_config(config)
  assert said["method"] == ff.fedavg(head=ff.arcface(margin=0.2),
                                     clients=ff.virtual_clients(per_round=4))
  assert said["privacy"] == ff.budget(epsilon=2.0) and said["rounds"] == 3
  assert said["start"] == ff.pretrain(ff.centralized())


@pytest.mark.parametrize("config, words", [
    ({"method": {"name": "dp_fedem"}}, "did you mean dp_fedemb"),
    ({"method": {"name": "dp_fedemb", "aggregate": {"clip_norm": -1.0}}},
     r"method.aggregate.clip_norm=-1.0: expected a number in"),
    ({"method": {"name": "dp_fedemb", "correction": {}}}, "takes no correction"),
    ({"method": {"name": "fedgc", "correction": {"strenght": 1.0}}}, "did you mean strength"),
    ({"privacy": {"epsilon": 0.0}}, "privacy.epsilon=0.0: expected a number above 0"),
    ({"evaluation": {"names": ["recall_all_pair"]}}, "evaluation: names='recall_all_pair'"),
    ({"pretrain": {}}, "takes no pretrain"),
    ({"rounds": "many"}, "rounds='many': expected a whole number"),
])
def test_what_no_signature_takes_is_refused_before_data_are_read(config, words):
  whole = {"method": {"name": "dp_fedemb"}, "data": {"name": "folder", "path": "/nowhere"},
           "rounds": 3}
  with pytest.raises(ValueError, match=words):
    ff.from_config(whole | config)


def test_a_value_of_another_kind_is_refused():
  with pytest.raises(ValueError, match="method.*expected a method"):
    ff.fit(ff.cosface(), sources(), rounds=1)
  with pytest.raises(ValueError, match="rounds=0"):
    fit(rounds=0)
  with pytest.raises(ValueError, match="exactly one of privacy.epsilon and"):
    fit(privacy=ff.budget())
  for chosen, epsilon in ((method(), 8.0), (method(aggregate=ff.mean()), None)):
    with pytest.raises(ValueError, match="privacy.unit='image': dp_fedemb accounts for each pers"):
      fit(chosen, privacy=ff.budget(epsilon=epsilon, delta=1e-3, unit="image"))
  with pytest.raises(ValueError, match="account=ours.json: .* needs a workdir"):
    fit(account="ours.json")
  with pytest.raises(ValueError, match="data have none"):
    fit(data=photographs(16).split(0.4), start=ff.pretrain(ff.centralized(), rounds=1))


def test_rounds_grow_only_where_no_noise_was_calibrated_to_them(tmp_path):
  fit(workdir=tmp_path / "calibrated")
  with pytest.raises(ValueError, match="rounds cannot grow here"):
    fit(workdir=tmp_path / "calibrated", rounds=6)
  said = method(aggregate=ff.gaussian(noise_multiplier=5.0))
  fit(said, workdir=tmp_path / "said", privacy=ff.budget())
  grown = fit(said, workdir=tmp_path / "said", privacy=ff.budget(), rounds=6)
  assert grown.rounds == 6 and grown.epsilon > 0


def test_an_account_adds_up_over_runs(tmp_path):
  account = tmp_path / "ours.json"
  for name in ("one", "two"):
    run = fit(workdir=tmp_path / name, account=account)
  assert "2 runs" in run.statement or "two runs" in run.statement or "15.9" in run.statement
  assert len(json.loads(account.read_text())["runs"]) == 2


def test_a_private_set_in_the_place_of_a_public_one_is_told_what_makes_one():
  private = ff.folder("faces")
  with pytest.raises(ff.OptionError, match="expected a public set, not a data: "
                                           "fedjax_face.data.public_sets.folder makes one"):
    ff.folder("faces", public=private)
  with pytest.raises(AttributeError, match=r"fedjax_face.replace\(part, name=value\) makes"):
    private.public = private


def test_sets_by_hand_share_nobody():
  one, other = photographs(4), photographs(4, seed=1)
  with pytest.raises(ValueError, match=r"share 4\s*person"):
    fit(data=ff.Sources(one, one))
  with pytest.raises(ValueError, match="expected one shape"):
    fit(data=ff.Sources(one, ff.faces(np.zeros((2, 5, 5), np.uint8), ["x", "y"])))
  run = fit(method(clients=ff.virtual_clients(per_round=1, users_per_client=2)),
            ff.Sources(one, other), rounds=1)
  assert run.rounds == 1


def test_a_program_cannot_be_given_what_was_made_by_hand_and_says_so(kept, capsys):
  from experiments import evaluate
  assert evaluate.main([f"--workdir={kept.workdir}"]) == 2
  said = capsys.readouterr().err
  assert "method.backbone (OneLayer), start.method.backbone (OneLayer): made by hand" in said
  assert said.count("\n") == 1


@pytest.mark.parametrize("changes, name", [
    ({"privacy": ff.budget(epsilon=8.0, delta=1e-3, noise_seed=3)}, "privacy.noise_seed=3"),
    ({"compute": ff.compute(wandb="faces")}, "compute.wandb=faces")])
def test_noise_that_anybody_can_draw_and_third_parties_are_for_folders(changes, name):
  with pytest.raises(ValueError, match=f"{name}: needs a workdir"):
    fit(**changes)


def test_noise_that_anybody_can_draw_again_protects_nobody(tmp_path):
  run = fit(rounds=1, workdir=tmp_path / "pinned",
            privacy=ff.budget(epsilon=8.0, delta=1e-3, noise_seed=3))
  assert run.epsilon == math.inf and "epsilon inf" in repr(run)


def test_rounds_without_a_release_on_the_ledger_have_no_epsilon(remembered):
  from fedjax_face.privacy.ledger import Ledger
  from fedjax_face.runs.run import Run
  made = remembered._made
  assert Run(made, remembered._state, Ledger(), []).epsilon == 0.0
  assert Run(made, remembered._state, Ledger(), [(3, {})]).epsilon == math.inf


def test_what_a_rehearsal_chose_is_said_and_is_what_the_call_says():
  with pytest.raises(ValueError, match=r"rehearsed.chose=\(\): expected what was chosen|chose"):
    ff.rehearsed("others", people=10, judges=2, chose=())
  for chose, words in (("method.local.epochs=7", "method.local.epochs=1, but rehearsal.chose says"),
                       ("method.local.epoch=1", "the config says no method.local.epoch"),
                       ("method.local.epochs=one", "is not KEY=NUMBER")):
    with pytest.raises(ValueError, match=words):
      fit(rehearsal=ff.rehearsed("others", people=10, judges=2, chose=(chose,)))
  said = fit(rounds=1, rehearsal=ff.rehearsed("others", people=10, judges=2, chose=(
      "method.local.epochs=1", "rounds=1"))).statement
  assert "local epochs and rounds were chosen by rehearsal on 10 public people of others" in said


def test_a_folder_is_of_its_own_data(tmp_path, kept):
  def stop(done, metrics):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    fit(workdir=tmp_path / "run", callbacks=[stop])
  whole = photographs(16)
  for other, words in (
      (whole.split(evaluation=0.4, public=photographs(6, seed=2)), "'1-00' is public there and"),
      (photographs(16, seed=7).split(evaluation=0.4), "person '0-0[0-9]' trains there and not")):
    with pytest.raises(ValueError, match=f"other data: person .*{words}|another config"):
      fit(data=other, workdir=tmp_path / "run")
  given = {"method.backbone": OneLayer(), "start.method.backbone": OneLayer()}
  with pytest.raises(ValueError, match="person '1-00' is public there and not here"):
    ff.load(kept.workdir, whole.split(evaluation=0.4, public=photographs(6, seed=2)), given)
  assert "could stop training by them" in fit(workdir=tmp_path / "run").statement


def test_a_public_set_is_neither_the_private_one_nor_named_like_it():
  both = sources()
  with pytest.raises(ValueError, match="has the images of the training set"):
    fit(data=both._replace(public=ff.FaceDataset(
        "other", both.train.images, both.train.label, both.train.person)),
        start=ff.pretrain(ff.centralized(), rounds=1))
  run = fit(start=ff.pretrain(ff.centralized(), rounds=1), rounds=1)
  assert "mine (public)" in run.statement
  assert "secrets/" not in run.statement and "training_set.key" not in run.statement


def test_numbers_of_two_sets_are_not_names():
  image = np.zeros((3, 4, 4, 1), np.uint8)
  one, other = (ff.faces(image, [4, 7, 7], name=name) for name in ("a", "b"))
  assert not one.names and one.label.tolist() == [0, 1, 1]
  assert one.identities.tolist() == other.identities.tolist()  # of the numbers, not their places
  assert ff.faces(image[1:], [7, 7], name="a").identities[0] == one.identities[1]
  with pytest.raises(ValueError, match="no attribute is called gendre"):
    ff.faces(image, [4, 7, 7], gendre=[0, 0, 0])


@pytest.mark.parametrize("call, words", [
    (lambda: ff.fit(method(), photographs(8), rounds=1), "dataset.split"),
    (lambda: ff.fit("dp_fedemb", "nowhere", rounds=1), "no data has this name"),
    (lambda: fit(start=ff.centralized()), "start=centralized.*expected a start"),
    (lambda: fit(callbacks=[3]), "expected a list of functions"),
    (lambda: fit(callbacks=[lambda *_: "yes"]), "a callback returned 'yes'"),
    (lambda: fit(method(aggregate=ff.gaussian(noise_multiplier=1.0))), "exactly one of privacy.ep"),
    (lambda: fit(method(aggregate=ff.gaussian(clip_norm=np.inf))), "clip_norm=inf: the noise"),
    (lambda: fit(method(backbone=OneLayer)), "backbone=OneLayer: expected a module"),
    (lambda: ff.clusters(epsilon=1.0, noise_multiplier=2.0), "give one"),
    (lambda: ff.lenet(width=0.0), "width=0.0: expected a number in"),
    (lambda: ff.momentum(momentum=1.5), r"momentum=1.5: expected a number in \[0, 1\)"),
    (lambda: ff.protocols(fars=()), "fars=.*: expected at least one"),
    (lambda: ff.synthetic_faces(size=16), r"size=16: expected a whole number in \[28, 227\]"),
])
def test_what_cannot_be_meant_is_refused_in_one_line(call, words):
  with pytest.raises(ValueError, match=words) as found:
    call()
  assert "\n" not in str(found.value)


def test_a_part_is_read_by_the_names_of_its_options():
  assert method().aggregate.clip_norm == 0.5 and ff.dp_fedemb().head.margin == 0.35
  with pytest.raises(AttributeError):
    _ = ff.gaussian().margin
  with pytest.raises(AttributeError, match="did you mean dp_fedemb"):
    _ = ff.dp_fedem


def test_what_is_given_for_a_config_may_be_sets(kept):
  said = ff.from_config(kept.config, given={
      "data": sources(), "method.backbone": OneLayer(), "start.method.backbone": OneLayer()})
  assert said["method"].clients.per_round == 2 and said["rounds"] == 4


