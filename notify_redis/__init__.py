"""Redis Streams: single server, Sentinel, Cluster."""
