"""A Kubernetes API server, small enough to be read in a sitting, for proving dynvol where no cluster is at hand.

What it serves, it serves as kube-apiserver does: real kubectl and real controllers talk to it, and its answers are held against
the real server's. What it leaves out: protobuf, aggregated API servers, several API server instances, audit, quota, encryption
at rest, conversion webhooks, and most of the validation of built-in kinds (their shape is checked, their meaning hardly).

A request passes these modules: server (transport, who, may they) → rest (what happens to an object) → store.
"""
