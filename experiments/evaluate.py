r"""Evaluates the newest checkpoint of a run, on its own evaluation set or on another one.

python -m experiments.evaluate --workdir=RUN
python -m experiments.evaluate --workdir=RUN --data=lfw --protocols=lfw_view2,tar_at_far
python -m experiments.evaluate --workdir=RUN --data=folder --data.path=FACES \
    --protocols=recall_all_pairs,identification --fars=1e-2,1e-3
python -m experiments.evaluate --workdir=RUN --data=listing --data.path=LIST.csv \
    --data.split=evaluation
python -m experiments.evaluate --workdir=RUN --data=bin --data.path=lfw.bin
python -m experiments.evaluate --workdir=RUN --data=templates --data.path=IJBC --protocols=templates

Writes evaluation.json, roc.png and det.png to RUN/evaluations/NAME (or --out). What the run is
compared with stands beside: its start, the backbone untrained, raw pixels (--nobeside leaves them
out, where a set is large). A set that shares a person with the training
set is refused. Images of another set are scaled to the size and channels of the run, unless
--data.size and --data.grayscale say another.

bin: pairs of InsightFace (lfw.bin, cfp_fp.bin, agedb_30.bin). templates: a folder with images.csv
(lines `name template media`, or CSV with a header that has TEMPLATE_ID, SUBJECT_ID, MEDIA_ID and
FILENAME, relative to the folder), and for 1:1 pairs.csv (lines `template template same`, same being
0 or 1; `template,template` where the subjects tell), for 1:N gallery.csv and perhaps probes.csv (a
template a line, or CSV with TEMPLATE_ID; without probes.csv whoever is not in the gallery).

A method that trains no embeddings is evaluated on its own set and by its own
metrics; its folder may be that of an edge server, if the device parts are frozen: they are built
again, and refused if they are not those of the run by the digest in its server.json.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import command_line

_OPTION = "--data."


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_shared(values)
  text = lambda name, default, meaning: flags.DEFINE_string(
    name, default, meaning, flag_values=values)
  text("data", "", "name of a data set; default: the run's own evaluation set; its options are "
       "--data.KEY=VALUE")
  flags.DEFINE_list("protocols", [], "default: the run's", flag_values=values)
  flags.DEFINE_list("fars", [], "false accept rates; default: the run's", flag_values=values)
  flags.DEFINE_integer("pairs", 6000, "pairs drawn for protocols that need pairs, where the set "
                       "has no official ones", flag_values=values)
  flags.DEFINE_integer("bootstrap", None, "resamples over people; default: the run's",
                       flag_values=values)
  flags.DEFINE_enum("flip", "", ["", "none", "sum", "concat"], "flip test; default: the run's",
                    flag_values=values)
  flags.DEFINE_bool("beside", True, "on another set, also what the run is compared with",
                    flag_values=values)
  text("out", "", "folder of the results; default RUN/evaluations/NAME")
  return values


def _evaluate(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  command_line.parse(values, [a for a in arguments if not a.startswith(_OPTION)], __doc__)
  if values.workdir is None:
    raise ValueError("--workdir is required: the folder of a run")
  asked = _changed(values)
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  from fedjax_face.runs import evaluate, summary
  workdir = pathlib.Path(values.workdir)
  out = pathlib.Path(values.out or workdir / "evaluations" / (values.data or "own"))
  found = evaluate.evaluate(workdir, asked, data=_data(values, arguments), pairs=values.pairs,
                            beside=values.beside, out=out)
  summary.print_metrics(f"{workdir} after {found['rounds']} rounds on {found['data']}",
                        found["metrics"], found["references"])
  print(f"results: {out}")


def _changed(values: flags.FlagValues) -> dict[str, Any]:
  """What the flags ask for in place of how the run was judged."""
  asked: dict[str, Any] = {}
  if values.protocols:
    asked["protocols"] = tuple(values.protocols)
  if values.fars:
    asked["fars"] = tuple(map(_number, values.fars))
  if values.bootstrap is not None:
    asked["bootstrap"] = values.bootstrap
  if values.flip:
    asked["flip"] = False if values.flip == "none" else values.flip
  return asked


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise ValueError(f"--fars: {text!r} is not a number") from None


def _data(values: flags.FlagValues, arguments: Sequence[str]) -> dict[str, str] | None:
  """The section of another set, values as text."""
  said = [a for a in arguments if a.startswith(_OPTION)]
  if not values.data:
    if said:
      raise ValueError(f"{said[0]}: needs --data=NAME")
    return None
  given = {}
  for option in said:
    key, equals, value = option.removeprefix(_OPTION).partition("=")
    if not equals:
      raise ValueError(f"{option}: expected {_OPTION}KEY=VALUE")
    given[key] = value
  return {"name": values.data, **given}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["evaluate", *arguments]
  return command_line.one_line_errors(
    lambda: _evaluate(_flags(), given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
