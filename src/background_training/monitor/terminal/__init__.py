"""The monitor as a live screen of a terminal, with keys: what it shows, how that fits, and how it is drawn."""
