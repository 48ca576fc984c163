"""Pictures and captions, decided by seeds: words, sprites, backdrops, creatures, scenes, paintings."""
