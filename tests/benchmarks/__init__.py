"""Speed and memory as ratios: `python -m tests.benchmarks [names]`. Nothing here runs with the tests.

A figure per second says more about the machine than about the code, so each is measured next to its limit: the least
that anybody could write for the same job. Both run in turn inside each of five rounds, and the ratio is taken within
the round, so that a machine that slows down meanwhile slows both.
"""
