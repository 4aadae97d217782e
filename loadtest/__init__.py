"""Load and fault tests of a whole cluster. `README.md` beside this file says what each is for.

`python -m loadtest` runs locust's users against a cluster (`__main__.py`, then `locustfile.py`);
`python loadtest/audit.py` breaks one. What both check is in `ledger.py`.
"""
