"""A config of a run over the wire, whose parts the tests put in its place."""


def get_config():
  return {"method": {"name": "dp_activations"}, "rounds": 30,
          "data": {"name": "closed_set", "people": {"name": "synthetic_faces", "people": 62}},
          "privacy": {"epsilon": 8.0}}
