"""dynvol gives running Kubernetes pods external storage, and takes it away again, without a restart."""

__version__ = "0.1.0"
