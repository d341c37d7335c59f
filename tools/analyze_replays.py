"""The command that analyses a folder of StarCraft II replays; `python tools/analyze_replays.py --help` tells the rest."""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.replays")
