"""Name what is set up wrongly, with its cause and its cure: python tools/doctor.py --help"""

from __future__ import annotations

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(dirname(realpath(__file__))))
    from tools import as_script

    as_script.run(__file__)

import sys

from tools.doctor_checks import finding, ground


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 for a healthy root, 1 if something was found."""
    findings = ground.findings()
    if findings:
        given = sys.argv[1:] if arguments is None else arguments
        tell = finding.as_json if "--json" in given else finding.as_text
        print(tell([], findings, len(ground.CHECKS)))
        return 1
    # Only now: it needs the packages that have just been looked for.
    from tools.doctor_checks import command

    return command.main(arguments)
