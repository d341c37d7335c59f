"""Write TensorBoard's event files of a run, and keep them up to date: python tools/export_tensorboard.py --help"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.tensorboard", quietly=True)
