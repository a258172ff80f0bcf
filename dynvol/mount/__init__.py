"""The kernel side of dynvol: what is mounted, where mounts propagate, and how a pod's target path comes and goes.

One rule shapes the package: decide from the mount table, then touch. A path on which a dead FUSE or NFS mount may sit is
never looked up to find that out, because the look-up is what hangs. Nothing here knows Kubernetes; nothing but the standard
library is imported, because the mounter, which uses this package too, runs once per workload.

    mountinfo    the table: parse, index, read a consistent snapshot
    syscalls     mount(2) and its modern relatives, with errors that say what was tried
    propagation  peer groups and bind mounts, each call a no-op when the table already shows its result
    paths        directories below a root, made and removed without following a symlink or entering a foreign mount
    targets      publish, unpublish, and release what they made
    held         volumes that kubelet mounts for one pod, shown in others
    caches       what clients have not uploaded yet, on the node's disk
    fuse         what a dead FUSE daemon leaves behind
    nfs          mounts that the kernel serves from a server elsewhere, and the program that stands for one
    usage        the figures of NodeGetVolumeStats
    watch        wait for the table to change (asyncio)
    executor     blocking calls as joinable tasks on a bounded number of threads (asyncio)
    probe        is a mount alive? asked in a process that can be killed (asyncio)
    errors       the error tree
"""
