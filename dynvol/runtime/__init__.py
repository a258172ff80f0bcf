"""The controller runtime: queue, back-off, store, watcher, informer, controller, leader election.

It knows no Kubernetes client, no wire format and nothing of dynvol. What it needs from the world it declares as a Protocol
(`source.Source`, `leader.LeaseLock`, `metrics.QueueMetrics` …), and somebody else provides it. What it promises is what
client-go and controller-runtime promise; where it differs, the module's docstring says so, and why.

Nothing here is thread-safe: all of it belongs to the one event loop that it is used from, and every method that is not a
coroutine takes effect before it returns.
"""
