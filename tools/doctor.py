"""Name what is set up wrongly, with its cause and its cure: python tools/doctor.py --help"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))) + "/src")

if __name__ == "__main__":
    from background_training.commands import script

    script.run("background_training.commands.doctor")
