"""The end-to-end suite, and the local cluster that it can run on."""
