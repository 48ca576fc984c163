"""The library: what the verbs do, of a pipeline or a name, and of a list of prompts or a file, in one call each.

A run folder is written as the verbs write it. Where none is given it is a temporary one, removed when Python ends.
"""

from probes.api.audits import attack, audit, harden
from probes.api.call import Results
from probes.api.scans import judge, scan
from probes.api.weights import localize, pruned

__all__ = ["Results", "attack", "audit", "harden", "judge", "localize", "pruned", "scan"]
