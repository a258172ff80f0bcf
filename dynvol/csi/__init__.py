"""What kubelet talks to: the CSI Identity and Node services, and the registration that makes kubelet find them.

It asks for mounts through `Targets`, and knows neither the API nor mount pods: a pod's start
waits for nothing but this node's kernel.

    server        both sockets, from entering to leaving: what `app` composes
    registration  kubelet's plugin registration service
    identity      who the plugin is
    node          publish, unpublish, stats
    requests      from a request to what is meant by it, or the reason why not (pure)
    kernel        `Targets` on the kernel's mount table
    errors        the error tree, and the one table from errors to codes
    proto         written by hack/generate
"""
