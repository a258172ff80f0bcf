"""What a process tells about itself: logs, metrics, health. Nothing in here decides anything.

`logs` needs nothing but the standard library and msgspec, so that the mounter can afford it; `metrics` brings prometheus_client,
`server` brings aiohttp. Import the module that is meant, not the package.
"""
