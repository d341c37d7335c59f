"""Check on this very machine that the background training works: python tools/test_background_training.py"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.selfcheck")
