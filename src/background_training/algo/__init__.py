"""The mathematics of learning, pure: networks, losses, batches, updates. NumPy only."""
