"""Statistics, figures and checks of a data set."""
