"""DP HyperFace: five face tasks trained together by DP-SGD, and what it is held against."""

from __future__ import annotations

from fedjax_face.dp_sgd.face_tasks import five_tasks
from fedjax_face.dp_sgd.gradients import Gradient, joint, unclipped
from fedjax_face.dp_sgd.optimizers import AveragedOptimizer, averaged, momentum
from fedjax_face.dp_sgd.trainer import dp_sgd, sgd
from fedjax_face.dp_sgd.units import Units, poisson_units
from fedjax_face.losses.tasks import Tasks, detection, fixed, uncertainty
from fedjax_face.method import Method
from fedjax_face.models.task_networks import Network, hyperface_small
from fedjax_face.options import OptionError, register


@register.method
def dp_hyperface(*, network: Network = hyperface_small(), tasks: Tasks = uncertainty(),
                 units: Units = poisson_units(), gradient: Gradient = joint(),
                 optimizer: AveragedOptimizer = averaged(momentum())) -> Method:
  """DP-SGD on HyperFace with learned task weights (Zhang et al., Front. Neurorobotics 2020).

  The sum of a step holds the network's gradient and that of the task weights, clipped together.

  Args:
    network: of five face tasks, and which of its layers train.
    tasks: how their losses are weighed.
    units: what is protected, and how a step's are chosen.
    gradient: what is clipped together, and its noise; one that clips.
    optimizer: what is made of the noisy mean.

  Privacy: one unit more or less, a photograph say, in what a trusted trainer publishes.
  """
  return dp_sgd(units, five_tasks(network, tasks), gradient, optimizer)


@register.method
def hyperface(*, network: Network = hyperface_small(), tasks: Tasks = fixed(),
              units: Units = poisson_units(), gradient: Gradient = unclipped(),
              optimizer: AveragedOptimizer = averaged(momentum())) -> Method:
  """The same steps without clipping and noise (Ranjan et al., TPAMI 2017); not private.

  Args:
    network, tasks, units, optimizer: as of `dp_hyperface`.
    gradient: `unclipped`.
  """
  return sgd(units, five_tasks(network, tasks), gradient, optimizer)


@register.method
def face_detector(*, network: Network = hyperface_small(), tasks: Tasks = detection(),
                  units: Units = poisson_units(), gradient: Gradient = unclipped(),
                  optimizer: AveragedOptimizer = averaged(momentum())) -> Method:
  """HyperFace's shared layers as a classifier of faces: the published first stage; not private.

  Args:
    network, units, optimizer: as of `dp_hyperface`.
    tasks: `detection`.
    gradient: `unclipped`.
  """
  if tasks.name != "detection":
    raise OptionError(f"tasks={tasks.name}: expected detection; hyperface trains the other tasks")
  return sgd(units, five_tasks(network, tasks), gradient, optimizer)
