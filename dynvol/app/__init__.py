"""Composition roots: one module for each process, in which it is said who is wired to whom."""
