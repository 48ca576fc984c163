"""The second testbed, in the making: a world that two cores can learn, works that SSCD tells apart, 8 latent channels.

pictures and captions: words, sprites, backdrops, canvases, world. training: rendered, autoencoder, stages.
It takes the first one's place when its twins are trained and beat it; until then every command uses the first.
"""
