"""The contract between methods and what runs them.

`algorithm`: what a bound method is, pure functions and what they reveal. `binding`: methods as
values made of parts, and how one is bound to data and a setting.
"""

from fedjax_face.method.binding import (
    Budget,
    HParams,
    Method,
    Progress,
    Setting,
    Watch,
    bind,
    noise_multiplier,
    refuse_noise,
    require_unit,
    under,
)

__all__ = ["Budget", "HParams", "Method", "Progress", "Setting", "Watch", "bind",
           "noise_multiplier", "refuse_noise", "require_unit", "under"]
