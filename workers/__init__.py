"""Workers build a candidate's model from its recipe and have it scored: `Job` in, `Outcome` out."""

from workers.job import Failed, Job, Outcome, Scored
from workers.recipe import MergeRecipe, Setting, Slice

__all__ = ["Failed", "Job", "MergeRecipe", "Outcome", "Scored", "Setting", "Slice"]
