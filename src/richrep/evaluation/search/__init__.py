"""Subset search: which of M networks represent a data set best together.

proxy.py        subset -> a quick val score, from Gram matrices that add under concatenation
strategies.py   which subsets are scored: greedy, beam, backward, exhaustive
probes.py       subset -> its full probe: chosen on val, refitted, scored on test
kept.py         full probes on the disk while a search is at work
scales.py       a learned scale for every member, the soft version of a subset
importance.py   how much of a fitted head's weight is on each member
found.py        what was chosen; records.py makes records of it
search.py       the protocol that ties them together
"""
