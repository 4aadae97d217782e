"""Load and fault tests of a whole cluster. `README.md` beside this file explains each.

`python -m loadtest` runs locust's users against a cluster (`__main__.py`, then `locustfile.py`);
`python loadtest/audit.py` breaks one. `ledger.py` has the checks of both.
"""
