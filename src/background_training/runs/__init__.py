"""What `run` composes: games that are played one after the other or side by side, their logs and their state."""
