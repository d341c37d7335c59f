"""The contract between games and learner: episodes, their files, and every move of those files."""
