"""Written by hack/generate from protos/; never by hand."""
