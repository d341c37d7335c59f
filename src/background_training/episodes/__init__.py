"""The contract between games and learner: what an episode is, how its file lies on the disk, and every move of that file."""
