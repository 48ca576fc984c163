"""Benign prompts that ship, and the grammar that most of them come from."""
