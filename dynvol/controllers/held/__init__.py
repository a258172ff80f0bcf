"""Volumes that Kubernetes itself mounts (provider `pvc`), shown in pods that run.

holderspec    the pod that has a volume mounted on a node, and what a pod must look like to be taken for one: pure
volumes       what is held and wanted on this node, read from the caches and the mount table
nodevolumes   what is done to the node's mounts for it
holders       the controller that makes holders and lets them go
showing       the controller that shows in pods what is held
"""
