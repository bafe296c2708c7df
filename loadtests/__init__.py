"""Measuring the running system from outside. `make bench` is the entrance (see bench)."""
