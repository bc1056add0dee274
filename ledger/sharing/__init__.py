"""Histories and states on the Hub: published, pulled, cloned, signed."""
