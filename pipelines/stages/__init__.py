"""Stages: each reads artifacts, writes exactly one artifact, and returns it. `run(config, …) -> Artifact`."""
