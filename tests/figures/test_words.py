"""Names of code become words; words stay as they are."""

import numpy as np
import pytest
from matplotlib.text import Text

from fedjax_face.figures import curves_figure, figures
from fedjax_face.figures.words import in_words


@pytest.mark.parametrize("name, words", [
    ("recall_all_pairs@far=0.1", "recall all pairs at FAR 0.1"),
    ("recall_all_pairs/auc", "recall all pairs, AUC"),
    ("identification/dir@far=0.01", "identification, DIR at FAR 0.01"),
    ("identification/rank1", "identification, rank 1"),
    ("landmark_nme", "landmark NME"),
    ("epsilon0.7_fixed", "epsilon 0.7 fixed"),
    ("fedgc_as_written_7.5", "FedGC as written 7.5"),
    ("dp_fedemb", "DP-FedEmb"),
    ("far from private, z = 0.2", "far from private, z = 0.2"),
    ("FedGC calibrated", "FedGC calibrated"),
])
def test_in_words(name, words):
  assert in_words(name) == words


def test_no_figure_of_runs_shows_a_name_of_code():
  course = {"round": np.arange(2.), "landmark_nme": np.array([.3, .2])}
  frontier = {"one": figures.Frontier([1., 8.], [.2, .3])}
  roc = {"dp_fedemb": figures.Curve(np.array([.1, 1.]), np.array([.2, 1.]))}
  for fig in (curves_figure.curves({"public_alone": [course]}, ["landmark_nme"]),
              figures.training_curves(course, evaluation=("landmark_nme",)),
              figures.roc(roc), figures.det(roc),
              figures.privacy_utility(frontier, metric="landmark_nme", delta=1e-5, unit="person",
                                      adjacency="replace one")):
    texts = [part.get_text() for part in fig.findobj(Text)]
    assert not any("_" in text for text in texts), texts
