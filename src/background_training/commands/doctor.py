"""Name what is set up wrongly, with its cause and its cure: python tools/doctor.py --help"""

from __future__ import annotations

import sys

from background_training.doctor import finding, ground


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 0 for a healthy root, 1 if something was found."""
    findings = ground.findings()
    if findings:
        given = sys.argv[1:] if arguments is None else arguments
        tell = finding.as_json if "--json" in given else finding.as_text
        print(tell([], findings, len(ground.CHECKS)))
        return 1
    # Only now: it needs the packages that have just been looked for.
    from background_training.commands import doctor_command

    return doctor_command.main(arguments)
