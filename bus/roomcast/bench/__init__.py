"""What ``roomcast bench`` measures with: load, publisher, the edges' own metrics, scenarios and the report."""
