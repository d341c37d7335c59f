"""Files that survive a kill or a power cut, locks, and a bounded reader of .npz files."""
