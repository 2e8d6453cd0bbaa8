"""Parts of ``firstlight-design``: the task, trainings as cells, the final check."""
