"""From a StarCraft II replay file to build orders a bot can read."""
