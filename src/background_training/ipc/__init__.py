"""Child processes: start, messages, watchdog, limits, end; and the load hints of games."""
