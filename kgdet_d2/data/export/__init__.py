"""Ground truth and predictions in the forms of other people's tools."""
