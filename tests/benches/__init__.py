"""Benches of p2p-cache: whole daemons beside what else does the job, ratios in one run. See tests/bench.py."""
