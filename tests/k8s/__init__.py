"""Tests before a real API server, scheduler and Dask operator, without containers or Docker.

``build`` makes the binaries, ``supervise`` runs them with ``kubelet``, which runs pods as processes
(``pods``, ``podspec``, ``container``), and ``lab`` is what a test holds. Asked for by ``-m kubernetes``
alone.

True to a cluster: what the server takes and refuses, RBAC, quotas, priorities, scheduling by resources,
taints and affinity, what the operator makes, Jobs, budgets and evictions, SIGTERM and SIGKILL, process 1,
users, capabilities, read-only roots, environment, ConfigMaps, Secrets, claims, tokens, probes, restarts,
services by name, logs.

Not: images (known names run this environment; others cannot be pulled), limits of memory and processors,
GPUs, NetworkPolicies, Pod Security admission, ports of services other than their pods', ``exec`` and
``port-forward``. A node that is lost closes its connections at once, which a machine without power does
not. A server of 1.20 leaves out later fields without a word; ``test_manifests`` holds which, and that there
are no others.
"""
