"""How good a model is, and whether one is better than another, with confidence intervals. python tools/evaluate.py --help"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.evaluate")
