"""What the audit is made of: the cluster under faults, the history of what its clients saw, and the verdict.

`history.py` has the events of a history and how they are kept in a file; `judge.py` says what is wrong with one, from
`channel.py` (one channel), `order.py` (is there one order?) and `outages.py`. None of these does any I/O but reading
and writing that file, so a history can be judged again years later.
"""
