"""Chaos: everything that can go wrong on a local cluster, at random moments, under programs that write all the time.

schedule   what happens when, drawn from the seed before anything begins
faults     the table of faults: how each is inflicted, and how it is healed
guests     claims and pods that come, change and go meanwhile
writer     the program in the containers: writes, syncs, closes, reads back, lists, and keeps a ledger outside
world      the cluster that it happens to
proxy      stands between the FUSE clients and the S3 server
watch      when all is well again after each fault
ledger     what must be in the buckets
judge      what is true at the end: claims, mounts, data, restarts, leaks
report     the table
"""
