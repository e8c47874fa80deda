"""Options: the arguments of factories, from Python, from a config and from a command line.

A kind and a factory in five minutes. A **kind** is a type of parts; whoever defines the type
registers it. A **factory** is a plain function that returns one: its arguments ARE the options, its
docstring is their documentation.

    class Head(NamedTuple):
      logits: Callable[..., float]

    register.kind(Head)                            # from now on there is @register.head

    @register.head
    def cosface(*, margin: Annotated[Traced, within("[0, 1)")] = 0.35,
                scale: Annotated[Traced, above(0)] = 16.0) -> Head:
      \"\"\"Large-margin cosine head (Wang et al., CVPR 2018, equation 4).

      Args:
        margin: taken from the true class's cosine.
        scale: of all cosines.
      \"\"\"
      return Head(lambda cosine: scale * (cosine - margin))

`cosface(margin=0.2)` is a **part**: it serves as a Head and remembers the call. A parameter that is
annotated with a kind is a section of the config; its default is a bare call:

    class Method(NamedTuple):
      head: Head

    register.kind(Method)

    @register.method
    def fedgc(*, head: Head = cosface(), start_head: str = "per_client") -> Method:
      \"\"\"FedGC (Niu and Deng, AAAI 2022).\"\"\"
      return Method(head)

Python, a config and a command line make equal parts, and the same mistakes are refused, in one line
with the path: `method.head.margin=2: expected a number in [0, 1)`.

    by_hand = fedgc(head=cosface(margin=0.2))
    of_a_config = build(Method, {"name": "fedgc", "head": {"margin": 0.2}}, "method")
    of_a_line = override({"method": {"name": "fedgc"}}, {"method": Method},
                         ["--config.method.head.margin=0.2"])

* Annotations: int, float, bool, str, None, Literal, tuple, Mapping[str, X] (entries with names of
  one's own), `Traced`, kinds, unions of these, and any other class for values that no config can
  hold. A number is finite, and in its range: `Annotated[int, at_least(1)]`, `Annotated[float,
  above(0)]`, `within("(0, 1]")`; ranges stand in errors and in help. What an annotation cannot say
  the factory says: `raise OptionError(f"head_steps={n}: expected at most {steps}")`.
* `Traced` is a number that enters the compiled step. `hparams(part)` has these alone, nested like
  the call. One that is None is open until `fill`, and what fills it is recorded beside the config.
* `call(part)` is the complete section: `build(kind, call(part), path) == part`. A factory of a
  user's module is recorded as `module:name` and imported when it is read.
* A part equals, prints, copies and pickles as its call. `made(part)` is what the factory returned;
  factories get that for their parts, so that nothing inside knows of parts. `said(part)` are the
  arguments that were given, `argument(part, name)` is one of them, `replace(part, ...)`
  calls again.
* `register.kind(Head, homes=("fedjax_face.losses.heads",))` names the modules to import when a name
  is looked for. `keeps_options=True`: a command line that names another part of the kind keeps what
  is said of options that both take. A kind of functions is a Protocol with `__call__`, a second
  kind of one class a NewType. A name is taken once in a kind.

Files: `types`, `ranges`: what an annotation accepts; `factories`, `kinds`: the registry; `calls`:
parts; `sections`: configs to parts; `overrides`: the command line; `traced`: hparams; `describe`:
help; `errors`. Nothing here imports JAX or numpy.
"""

from fedjax_face.options.calls import Call, Part, argument, call, made, record, replace, said
from fedjax_face.options.describe import describe
from fedjax_face.options.errors import OptionError
from fedjax_face.options.factories import Factory, factory_of
from fedjax_face.options.kinds import Kind, Registry, kind_of, register
from fedjax_face.options.overrides import Overridden, override
from fedjax_face.options.ranges import Range, Traced, above, at_least, within
from fedjax_face.options.sections import arguments, build, by_hand, outline, signature
from fedjax_face.options.traced import fill, hparams, still_open

__all__ = [
    "Call", "Factory", "Kind", "OptionError", "Overridden", "Part", "Range", "Registry",
    "Traced", "above", "argument", "arguments", "at_least", "build", "by_hand", "call",
    "describe", "factory_of", "fill", "hparams", "kind_of", "made", "outline", "override", "record",
    "register", "replace", "said", "signature", "still_open", "within"]
