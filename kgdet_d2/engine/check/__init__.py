"""The command ``kgdet check``: a look at a registered dataset before training on it."""
