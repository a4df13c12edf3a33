"""The penalty in ordinary training: scripts that run on two cores in minutes."""
