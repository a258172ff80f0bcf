"""The loop inside a mount pod: what is wanted becomes mounted, stays mounted, and goes away without losing data.

    engine    wanted mounts in, reports out; owns one session for each client
    decide    what to do next, purely, from what is wanted, what the mount table shows and what the sessions say
    session   one mount: its clients, one after the other, restarted, replaced, flushed, ended
    life      one life of a FUSE client
    flush     how long uploads are waited for, and by whom not
    look      whether the storage is there
    tools     what sessions share
    process   child processes
    stage     the mounter's own directories, and what an earlier life left
    secretwatch  tells when credentials change
    feed      annotations of the own pod in, reports out
    podapi    the few API requests that takes
    http      HTTP/1.1, as much of it as these need
    limits    what the container may use

A client never mounts at a place that a program can see. It mounts inside a private directory; when the mount answers, a bind
of it appears at the wanted path in one step. So no text of a user reaches a client's command line as a path, a mount that
does not work yet is never visible, several pods can share one client, and, when the visible mount is taken away, the
private one keeps the client alive until all is uploaded.

The package runs once for each workload, so its weight is counted: no aiohttp, no Kubernetes client, no HTTP library.
"""
