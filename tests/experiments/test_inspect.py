"""The program `inspect`."""

import numpy as np
import pytest
from PIL import Image

from experiments import inspect

CONFIG = "--config=configs/dp_fedemb.py"


def people(folder):
  """Eight people of two pictures each; the first picture of p1 is one of p0 too."""
  pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
  pixels[2] = pixels[0]
  for number, picture in enumerate(pixels):
    place = folder / f"p{number // 2}"
    place.mkdir(exist_ok=True, parents=True)
    Image.fromarray(picture).save(place / f"{number}.png")
  return folder


def test_a_folder_is_inspected_without_a_workdir(tmp_path, capsys):
  place, page = people(tmp_path / "people"), tmp_path / "page.html"
  asked = [CONFIG, "--data=folder", f"--data.path={place}", "--data.size=16", f"--out={page}"]
  assert inspect.main(asked) == 0
  printed = capsys.readouterr().out
  assert "WARNING" in printed and "p0" in printed and "p1" in printed and str(page) in printed
  assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("asked,words", [
    ([], "--config is required"), ([CONFIG, "--data=folder", "--data.path=/nowhere"], "/nowhere"),
    ([CONFIG, "--out=/proc/nowhere/page.html", "--data.people=2", "--data.evaluation=2",
      "--data.public=0", "--data.on_demand=False"], "/proc/nowhere")])
def test_mistakes_take_one_line(asked, words, capsys):
  assert inspect.main(asked) == 2
  *dropped, error = capsys.readouterr().err.strip().splitlines()
  assert words in error and all(line.startswith("dropped") for line in dropped)
