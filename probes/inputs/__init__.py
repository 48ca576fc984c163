"""What is asked about: prompts of a file, and the cohorts an audit compares."""
