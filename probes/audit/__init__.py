"""The closed loop: draw, shield, locate, prune, attack with controls, harden, attack again."""

import sys

from probes.library import CallablePackage

sys.modules[__name__].__class__ = CallablePackage  # probes.audit(...)
