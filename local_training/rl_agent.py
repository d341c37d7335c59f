"""RLAgent, under the name by which the guides import it."""

from background_training.agent import RLAgent

__all__ = ["RLAgent"]
