"""Train the archive again: python tools/rebuild_model.py --help"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.rebuild")
