"""What a game's actions are, and how a network chooses among them: one interface, a module for each kind."""

from local_training.actions.box import Box
from local_training.actions.discrete import Discrete
from local_training.actions.multi_binary import MultiBinary
from local_training.actions.multi_discrete import MultiDiscrete
from local_training.actions.space import ActionSpace, Chances, Choice

__all__ = ["ActionSpace", "Box", "Chances", "Choice", "Discrete", "MultiBinary", "MultiDiscrete"]
