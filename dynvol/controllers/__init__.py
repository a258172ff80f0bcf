"""The controllers of the node process: pure decisions, and thin shells that carry them out.

desired       which claim belongs in which pod, and what a mount pod is told          (pure)
status        what claims and classes say of themselves                              (pure)
mountpodspec  the manifests of a mount pod and of its Secret                          (pure)
externalvolume, mountpod          every node's work: it goes on without a leader
providerclass, claimstatus        the leader's work: totals, conditions, finalizers
"""
