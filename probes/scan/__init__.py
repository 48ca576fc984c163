"""Many prompts, scored by their first denoising steps: in batches, on workers, in shards."""

import sys

from probes.library import CallablePackage

sys.modules[__name__].__class__ = CallablePackage  # probes.scan(...)
