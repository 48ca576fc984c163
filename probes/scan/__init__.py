"""Many prompts, scored by their first denoising steps: in batches, on workers, in shards."""
