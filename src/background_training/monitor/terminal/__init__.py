"""The monitor as a live screen of a terminal, with keys."""
