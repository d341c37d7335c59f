"""What can be set up wrongly, found in facts that were gathered without changing anything; see tools/doctor.py."""
