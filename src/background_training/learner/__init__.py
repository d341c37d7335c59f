"""The inside of the background learner: watch, decide, train, commit, account."""
