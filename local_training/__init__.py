"""The contract between games and learner: what an episode is, where it lies, what is computed from it."""
