"""The door to the Kubernetes API server; nothing else of dynvol knows how it is spoken to.

kubernetes_asyncio reads the configuration and carries the bytes; what they mean is decoded here into the projections of
`dynvol.api`. There are no informers, caches or retries with back-off in here: those are `dynvol.runtime`'s.
"""
