"""The command ``kgdet app``: the garments of a photo, in a browser."""
