"""The controllers of the node process: pure decisions, and thin shells that carry them out.

desired, status, mountpodspec             which claim belongs in which pod, what is said of it, what is made for it: pure
view, matching, nodemounts                what the controllers of a node see: caches, what follows from them, the mount table
externalvolume, claimreport, mountpod     every node's work, which goes on without a leader: bring, report, take down
heldvolumes, holderspec, holders, showing  volumes that Kubernetes mounts: what is known of them, held on the node, shown in pods
providerclass, claimstatus                the leader's work: totals, conditions, finalizers
credentials, finalizers, namesakes, remains, turns   one rule each, that several of them keep
leftovers                                 what mount pods that are gone could not upload
"""
