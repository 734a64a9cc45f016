"""Statistics, figures and checks of a dataset."""
