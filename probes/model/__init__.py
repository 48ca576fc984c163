"""Drive a denoiser: encode prompts, draw in batches, look at activations, share a prediction."""
