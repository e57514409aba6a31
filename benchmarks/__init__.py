"""Measurements of speed; README.md beside this file says how to run and to read them."""
