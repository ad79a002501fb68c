"""Teaching a network: inputs, losses, the loop and its checkpoints; the Ray Train wrapper around them."""
