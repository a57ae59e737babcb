"""Attempts to refute the published epsilon, each on the code that a client really runs.

==============  =========================================================================================
audit           what it tries
==============  =========================================================================================
sensitivity     move a release by more than its bound with one user, however strange her log
canary          tell planted users from absent ones in the released sum
uploads         find an upload that was not charged, or a mask that was used twice
membership      tell members from strangers by what the recommender serves
inversion       read a history off one upload
==============  =========================================================================================

Every ``run`` returns a dictionary with ``ok`` and ``findings`` (one line each); every module has ``format_table``.
``planted`` breaks the engine on purpose and asks whether an audit notices.
"""
