"""Participation from one flat mapping, as tests of several rooms like to vary it."""

from fedjax_face.federated import sampling as samplings
from fedjax_face.federated.clients import Work, virtual_clients
from fedjax_face.federated.silos import participation_of_silos

_TAKES = {"fixed": (), "poisson": ("capacity", "probability"),
          "cyclic_fixed": ("min_separation", "partition_seed"),
          "cyclic_poisson": ("capacity", "probability", "min_separation", "partition_seed")}


def participation(options, dataset):
  """Virtual clients on a data set."""
  name = options["sampling"]
  values = options | {"probability": options["sampling_probability"]}
  sampling = getattr(samplings, name)(**{key: values[key] for key in _TAKES[name]})
  return virtual_clients(
      per_round=options["virtual_clients"], users_per_client=options["users_per_client"],
      sampling=sampling, max_examples=options["max_examples"],
      max_examples_per_user=options["max_examples_per_user"]).bind(dataset, 0, Work(
          options["epochs"], options["batch_size"], options["classes"]))


def silo_participation(options, dataset, silos, devices, clients_per_chunk, private=True):
  """Silos that are known already."""
  return participation_of_silos(
      dataset, silos, Work(options["epochs"], options["batch_size"], options["classes"], devices,
                           clients_per_chunk, private),
      options["silos_per_round"], options["max_examples"])
