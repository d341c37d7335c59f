"""Child processes and what is said between processes."""
