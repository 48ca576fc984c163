"""`python -m ui` is `diffshield ui`."""

import sys

from ui.verb import main

sys.argv[1:1] = ["ui"]
main()
