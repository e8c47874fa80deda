"""The pages of the repository: code runs, commands could run, links lead somewhere."""

import re

import pytest

from experiments import compare
from fedjax_face.options.kinds import _KINDS
from tests.docs import checks, pages, shortened

SCRIPT = "parts_of_a_page"
# A page's own numbers -> what makes its code a matter of seconds.
SHORT = {"README.md": {
    "people=2000, evaluation=100, public=300": "people=16, evaluation=8, public=8",
    "per_round=64, users_per_client=4": "per_round=2, users_per_client=2",
    "rounds=20, start=ff.pretrain(ff.centralized(), rounds=20)":
        "rounds=1, start=ff.pretrain(ff.centralized(steps=1), rounds=1)",
    'workdir="runs/python")\n\n': 'workdir="runs/python", '
                                  'evaluation=ff.protocols(fars=(0.1,), bootstrap=2))\n\n'}}
WRITES = {"README.md": ["runs"], "docs/data.md": ["own"]}
_NAMED = r"`((?:configs|docs|tests|benchmarks|notebooks|fedjax_face)/[\w/]+\.\w+)"
COMMANDS = [command for page in pages.PAGES for command in pages.commands(page)]


@pytest.fixture
def registries():
  """What the code registers is forgotten afterwards."""
  yield
  for kind in _KINDS.values():
    for name, factory in list(kind.factories.items()):
      if factory.function.__module__ == SCRIPT:
        del kind.factories[name]


@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.blocks(page, "python")],
                         ids=str)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, registries, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = {"__name__": SCRIPT}
  code = "\n".join(pages.blocks(page, "python"))
  for said, short in SHORT.get(str(page), {}).items():
    assert code.count(said) == 1, f"{page} says no {said!r}: its short form is of another text"
    code = code.replace(said, short)
  exec(compile(code, str(page), "exec"), names)  # in one namespace, as a reader would
  assert [path.name for path in tmp_path.iterdir()] == WRITES.get(str(page), [])


@pytest.mark.parametrize("command", sorted(set(COMMANDS)), ids=str)
def test_a_command_of_a_page_could_run(command, monkeypatch):
  monkeypatch.chdir(pages.ROOT)
  checks.check(command)


@pytest.mark.parametrize("words", sorted({
    command.words for command in COMMANDS if not shortened.skipped(command.words)}), ids=" ".join)
def test_what_make_test_docs_runs_is_taken_too(words, monkeypatch):
  monkeypatch.chdir(pages.ROOT)
  checks.check(pages.Command("", 0, tuple(shortened.shortened(words))))


@pytest.mark.parametrize("key", sorted({
    shortened.key_of(command.words) for command in COMMANDS
    if "experiments.compare" in command.words and not shortened.skipped(command.words)}))
def test_a_shortened_comparison_is_of_at_least_two_settings(key, tmp_path):
  path = tmp_path / "config.py"
  path.write_text(shortened.compared(key))
  given = compare.settings(f"{path}:{key.partition(':')[2]}")
  held = (*given.get("gap", ()), *filter(None, [given.get("non_private")]))
  assert 2 <= len(given["settings"]) and set(held) <= given["settings"].keys()


def test_commands_are_found():
  programs = {command.words[2] for command in COMMANDS if command.words[:2] == ("python", "-m")}
  assert {f"experiments.{name}" for name in checks.ENTRIES} <= programs
  assert len(pages.commands("README.md")) >= 4


@pytest.mark.parametrize("words", [
    "make nothing", "pip install -e .[nothing]", "python -m tests.nothing",
    "python -m pytest tests/nothing", "python -m benchmarks.rounds --workload w9",
    "python -m experiments.nothing", "rm -rf runs",
    "python -m experiments.train --config=configs/nothing.py --workdir=w",
    "python -m experiments.train --config=configs/fedgc.py:nothing --workdir=w",
    "python -m experiments.train --config=configs/fedgc.py --workdir=w --config.method.hed=linear",
    "python -m experiments.train --config=configs/dp_fedemb.py --workdir=w "
    "--config.method.head.margin=-1",
    "python -m experiments.device --config=configs/dp_activations.py --workdir=w "
    "--config.method.split.after=nowhere.at.all --config.rounds=0",
    "python -m experiments.compare --config=configs/composed.py --workdir=w",
    "python -m experiments.evaluate --workdir=w --protocols=identifcation",
    "python -m experiments.train --config=configs/fedgc.py --workdir=w --nothing=1"])
def test_a_command_that_could_not_run_is_refused(words, monkeypatch):
  monkeypatch.chdir(pages.ROOT)
  with pytest.raises((checks.Refused, ValueError)):
    checks.check(pages.Command("", 0, tuple(words.split())))


@pytest.mark.parametrize("page", pages.PAGES, ids=str)
def test_links_and_pictures_are_there(page):
  for target in pages.links(page):
    path, _, heading = target.partition("#")
    there = (pages.ROOT / page).parent / path if path else pages.ROOT / page
    assert there.exists(), f"{page} leads to {target}"
    if heading:
      assert heading in pages.anchors(there.relative_to(pages.ROOT)), f"{page} leads to {target}"


def test_every_page_and_picture_is_shown():
  shown = {((pages.ROOT / page).parent / target.partition("#")[0]).resolve()
           for page in pages.PAGES for target in pages.links(page)}
  there = {path for kind in ("*.md", "*.png") for path in (pages.ROOT / "docs").rglob(kind)}
  assert there <= shown


def test_the_first_page_is_short():
  assert len(pages.text("README.md").encode()) <= 8_000


def test_every_file_that_is_named_is_there():
  for page in pages.PAGES:
    for name in re.findall(_NAMED, pages.text(page)):
      assert (pages.ROOT / name).exists(), f"{page} names {name}"
