"""Experiment trackers beside TensorBoard and ``metrics.jsonl``."""

from firstlight.agents.session.trackers.base import Tracker
from firstlight.agents.session.trackers.mlflow_tracker import MlflowTracker
from firstlight.agents.session.trackers.trackio_tracker import TrackioTracker
from firstlight.agents.session.trackers.wandb_tracker import WandbTracker

__all__ = ["MlflowTracker", "Tracker", "TrackioTracker", "WandbTracker"]
