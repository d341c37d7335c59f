"""The report of a run, made for posting: what was played, how the bot improved, what was left out and why."""
