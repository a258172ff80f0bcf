"""What admission decides, without any I/O: an object and what the cluster knows go in, a verdict comes out."""
