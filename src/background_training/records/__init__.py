"""What a root says about itself, written by the learner and read by everything else: ledger, metrics, status, pauses."""
