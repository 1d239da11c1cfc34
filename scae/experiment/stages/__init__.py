"""The work of the stages, one file each.

`make(workshop, folder, *arguments)` writes into `folder` and returns facts for artifact.json: the `tokens` it took, and
what its row of `scae.experiment.table` reports.
"""
