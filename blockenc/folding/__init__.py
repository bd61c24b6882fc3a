"""Keys folded into the weights of trained models."""
