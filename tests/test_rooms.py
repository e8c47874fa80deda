"""Who may visit whom: imports go down the list of rooms, lazy ones included; never up."""

import ast
import pathlib

import fedjax_face

ROOT = pathlib.Path(fedjax_face.__file__).parent
ROOMS = ("attacks", "runs", "figures", "methods", "edge", "federated", "dp_sgd",
         "split", "evaluation", "method", "privacy", "losses", "models", "data", "draws", "options")


def imports(tree):
  """(line, room) of every import of the package in a file, at the top or not."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedjax_face":
      path = node.module.split(".")[1:]
      for name in [path[0]] if path else [alias.name for alias in node.names]:
        yield node.lineno, name
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith("fedjax_face."):
          yield node.lineno, alias.name.split(".")[1]


def test_every_room_is_in_the_list():
  found = {path.name.removesuffix(".py") for path in ROOT.iterdir()
           if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
  assert found == set(ROOMS)


def test_imports_go_down_the_list_only():
  climbs, seen = [], 0
  for path in sorted(ROOT.rglob("*.py")):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
      continue
    for line, room in imports(ast.parse(path.read_text())):
      seen += 1
      if room in ROOMS and ROOMS.index(room) < ROOMS.index(own):
        climbs.append(f"{path.relative_to(ROOT)}:{line} imports {room}")
  assert seen > 500 and not climbs


def test_the_package_imports_no_program_and_no_config():
  text = "".join(path.read_text() for path in ROOT.rglob("*.py"))
  for outside in ("from experiments", "import experiments", "from configs", "import configs"):
    assert outside not in text
