"""Files and the environment."""
