"""Everything a threshold is made from: benign prompts, how many of them a rate needs, and where thresholds are kept."""
