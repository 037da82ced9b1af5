"""How fast the stages are on this machine, each beside its limit and what others would use.

Every workload is a module with ``measure``; nothing is timed outside one process and one run, so that all
figures of a run can be held against one another.
"""
