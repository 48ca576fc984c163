"""The shipped model that memorizes, with known ground truth: its world, its training, its verification.

pictures and captions: vocabulary, paintings, characters, world. training: pool, training, vae, text, unet, build,
curves. what ships: export, manifest, criterion, verify. verbs: cli.
"""
