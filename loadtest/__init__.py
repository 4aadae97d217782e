"""Load and fault tests of a whole cluster. `README.md` beside this file explains each.

`python -m loadtest` runs locust's users against a cluster (`__main__.py`, then `locustfile.py`);
`python -m loadtest.audit` breaks one, and judges what its clients saw (`auditing/`). `ledger.py` counts what arrived,
for both.
"""
