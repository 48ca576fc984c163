"""The closed loop: draw, shield, locate, prune, attack with controls, harden, attack again."""
