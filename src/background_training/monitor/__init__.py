"""What a person sees of a running learner, read from its files only."""
