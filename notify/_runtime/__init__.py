"""What every other room stands on: waking, tasks, counting and telemetry."""
