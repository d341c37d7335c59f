"""StarCraft II: build orders from replays."""
