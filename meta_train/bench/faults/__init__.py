"""A campaign of faults against runs on this machine, which all must end in one state.

Faults come from outside: signals, files and disks. Where a program must misbehave, the
config that it runs does (`faulty`); what runs is `l2o train` as everybody's.
"""
