"""The fault harness: real worker trees under seeded faults, and a ledger that no fault touches to hold them to account.

`python -m benchmarks.chaos --help`.
"""
