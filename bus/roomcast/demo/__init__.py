"""The chat that ``roomcast up`` runs: a service in a process of its own, and a page for the browser."""
