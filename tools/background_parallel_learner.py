"""The background learner: a bot plays, and what it deposits in the buffer makes its model better."""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ != "__main__":  # imported, as bots written by the guides do
    from background_training.learner.background_learner import BackgroundParallelLearner

    __all__ = ["BackgroundParallelLearner"]

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.learn")
