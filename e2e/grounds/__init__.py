"""Where the suite runs: the local cluster, a real control plane, or a cluster that a kubeconfig names."""
