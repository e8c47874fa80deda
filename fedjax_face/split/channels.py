"""What crosses a cut in a pass: bytes of every channel, and what is said of those not released."""

from __future__ import annotations

from fedjax_face.method.algorithm import Communication, Measure
from fedjax_face.split import accounting, message
from fedjax_face.split.labels import LabelPolicy
from fedjax_face.split.network import SplitNetwork

METRICS = {"loss": Measure("training loss"), "train_accuracy": Measure("training accuracy")}

NOT_COVERED = (
    "Training loss and accuracy are those of the server (u_shaped: of the devices); accuracies of "
    "the evaluation are computed on other images of the same people, un-noised ones on the "
    "devices.",
    "The number of people, their classes, the largest number of images of one, and the clip norm "
    "where it is given are taken as public.",
)


def bytes_of(split: SplitNetwork, schedule: accounting.Schedule, labels: LabelPolicy, messages: int,
             classes: int) -> dict[str, Communication]:
  """Of one device in a pass, by channel; what is sent once counts as spread over the passes.

  Args:
    split: the cut network.
    schedule: how often images are sent.
    labels: how labels reach the server.
    messages: of a device in a pass.
    classes: of the logits.
  """
  of_labels = 0 if labels.policy == "u_shaped" else messages * schedule.batch * message.LABEL_BYTES
  of_activations = messages * message.message_bytes(split.shape, schedule.batch) - of_labels
  passes = schedule.epochs if schedule.mode == "frozen_cached" else 1
  channels = {"activations": Communication.equal(0, -(-of_activations // passes))}
  if labels.policy == "u_shaped":
    logits = messages * message.reply_bytes((classes,), schedule.batch)
    channels |= {"logits": Communication.equal(logits, 0),
                 "logit_gradients": Communication.equal(0, logits)}
  else:
    channels["labels"] = Communication.equal(0, -(-of_labels // passes))
  if schedule.device_is_trained:
    channels["activation_gradients"] = Communication.equal(
        messages * message.reply_bytes(split.shape, schedule.batch), 0)
  return channels


def not_covered(schedule: accounting.Schedule, labels: LabelPolicy,
                devices: int) -> tuple[str, ...]:
  """Sentences of the statement about what the server of K devices sees beside the releases."""
  return (*map(_sentence, accounting.not_covered(schedule, labels, devices)), *NOT_COVERED)


def uncovered(channels: dict[str, Communication], labels: LabelPolicy) -> dict[str, str]:
  """Channels without a release: labels in clear, and what the server makes of what it has seen."""
  said = {"logits": accounting.REPLIES, "activation_gradients": accounting.REPLIES}
  if labels.policy == "pseudonym":
    said["labels"] = accounting.LABELS_IN_CLEAR
  elif labels.in_clear:
    said["logit_gradients"] = accounting.LOGIT_GRADIENTS_IN_CLEAR
  return {name: _sentence(words) for name, words in said.items() if name in channels}


def _sentence(words: str) -> str:
  return f"{words[0].upper()}{words[1:]}."
