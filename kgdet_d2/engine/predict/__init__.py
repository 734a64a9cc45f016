"""The command ``kgdet predict``: the garments of photos, of whole folders and of films."""
