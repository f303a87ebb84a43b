"""How the pocket checkpoint is made: from text, through synthetic speech, to the files that ship.

One command a stage, `python -m training STAGE --work DIR`; every stage can be stopped and run again. The networks are those of
`cf_agents.models` at the sizes of `training.config.POCKET`; what only training needs (targets, losses, heads) lives here.
"""
