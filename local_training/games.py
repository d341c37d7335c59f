"""The vector environments, under the name by which the guides import them."""

from background_training.envs import *  # noqa: F403
from background_training.envs import __all__  # noqa: F401
