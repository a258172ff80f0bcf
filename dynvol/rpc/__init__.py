"""What every gRPC server of ours needs, and grpclib leaves out: a socket with its file, draining, codes, limits, a log.

It knows no service: `csi` and `service` bring theirs, with their own errors and a table from those to codes.

    listener    a Unix socket with its file, served and drained
    gathering   an answer's parts, sent as one
    calls       around every call: admission, codes, log, figures
    operations  one at a time for each key, joined by whoever asks again
    errors      what can go wrong here, and what a server says of its own errors
    redaction   messages as they may be logged
"""
