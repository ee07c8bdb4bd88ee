"""How a run is spread over devices: its settings (`config`), the Lightning strategy, and FSDP2's sharding."""
