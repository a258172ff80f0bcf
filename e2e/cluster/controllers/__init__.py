"""The local cluster's controllers: as much of kube-controller-manager and kube-scheduler as the tests rest on."""
