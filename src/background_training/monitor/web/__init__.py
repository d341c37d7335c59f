"""The monitor as a page on this machine: what it shows, which requests it answers, and how it is drawn."""
