"""The mounter on its own: the engine of a mount pod, told what to mount by RPC in place of annotations.

It gives plain containers, and pods in clusters without dynvol, what pods have with it. It starts no client and mounts nothing
itself: that is the engine's. It knows no Kubernetes.

    server       the gRPC service (protos/mounter.proto)
    mounts       what is wanted, and calls that wait for what becomes of it
    wishes       from a request to what is meant by it, or the reason why not (pure)
    words        what is wrong with a mount, said to someone who has no cluster (pure)
    records      what is wanted, on disk, for the life after this one
    client       the caller's side
    errors       the error tree, and the one table from errors to codes
    proto        written by hack/generate

**What outlives the process.** What is wanted does: it is written before a mount is begun, and struck out when an unmount has
ended. A service that starts anew mounts all of it again, under the same names, so that a client's cache is found and uploads go
on. Credentials that came with a call do not: they are in memory, and a mount that needs them fails, and says so, until it is asked
for with credentials again. Those that the service holds itself are there again. An unmount that was cut off never happened.
"""
