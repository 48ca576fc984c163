"""From prompts and seeds to images and their records."""
