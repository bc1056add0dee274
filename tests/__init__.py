"""Tests: one flat folder, `test_<topic>.py`."""
