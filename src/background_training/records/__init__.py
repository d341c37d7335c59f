"""The records of a root, written by the learner and read by everything else: ledger, metrics, status, pauses."""
