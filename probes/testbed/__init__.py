"""The shipped model that memorizes, with known ground truth: its world, its training, its export.

drawing: pictures and captions. world: works, non-members, splits. training: networks and stages. export: what ships.
manifest, checkpoint, criterion, negatives, fresh: what is known about the shipped testbed, for all who use it.
"""
