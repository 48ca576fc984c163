"""Load and understand a checkpoint: its family, its schedule, its conditioning, its weights."""
