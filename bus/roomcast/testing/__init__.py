"""What a service's own tests need: a real cluster on this machine, and clients that record what they hear.

Installed by ``pip install 'roomcast[testing]'``; pytest finds the fixtures of ``roomcast.testing.plugin`` by itself.
"""

from roomcast.testing.client import ANY, Client, Heard, SyncClient
from roomcast.testing.cluster import Cluster

__all__ = ["ANY", "Client", "Cluster", "Heard", "SyncClient"]
