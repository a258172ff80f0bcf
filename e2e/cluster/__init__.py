"""A Kubernetes cluster on one machine, without images or a registry: a proving ground, not a product."""
