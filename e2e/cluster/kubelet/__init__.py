"""The local cluster's kubelet: pods of one node as runc containers, volumes as the real kubelet makes them."""
