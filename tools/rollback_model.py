"""Publish an earlier version of the model as the next one: python tools/rollback_model.py VERSION"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.rollback")
