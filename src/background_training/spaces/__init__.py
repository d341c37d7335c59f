"""What a game's actions are, and how a network chooses among them: one interface, a module for each kind."""

from background_training.spaces.action_space import ActionDistribution, ActionSpace, Choice
from background_training.spaces.box import Box
from background_training.spaces.discrete import Discrete
from background_training.spaces.multi_binary import MultiBinary
from background_training.spaces.multi_discrete import MultiDiscrete

__all__ = ["ActionDistribution", "ActionSpace", "Box", "Choice", "Discrete", "MultiBinary", "MultiDiscrete"]
