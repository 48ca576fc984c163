"""How the testbed is made: its three networks, what they are trained on, and the stages of the training."""
