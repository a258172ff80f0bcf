"""What hack/quickstart shows: a bucket that appears in a running container, changes, and vanishes, on a machine with no cluster."""
