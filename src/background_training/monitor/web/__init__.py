"""The monitor as a page on this machine: what it shows, who may see it, and how it is drawn."""
