"""The controllers of the node process: pure decisions, and thin shells that carry them out.

desired, status, mountpodspec             which claim belongs in which pod, what is said of it, what is made for it: pure
view, matching, nodemounts                what the controllers of a node see: caches, what follows from them, the mount table
externalvolume, claimreport, mountpod     every node's work, which goes on without a leader: bring, report, take down
held                                      volumes that Kubernetes mounts: held on the node by pods of ours, shown in running ones
providerclass, claimstatus                the leader's work: totals, conditions, finalizers
credentials, finalizers, namesakes, remains, turns   one rule each, that several of them keep
leftovers, overdue, room                  what mount pods could not upload; pods that do not end; how much one mount pod can take
"""
